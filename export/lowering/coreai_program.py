"""A model as one `.aimodel` of Core AI: decoder and embedders are functions of it, caches are the decoder's states."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import psutil
import torch
from coreai.runtime import AIModelAssetMetadata
from coreai_torch import TorchConverter, get_decomp_table
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from export.config import Model
from export.lowering.coreai_modules import AudioEmbedder, ImageEmbedder, TextDecoder, TokenEmbedding
from export.lowering.executorch_program import Sizes
from export.weights import Weights
from runtime.errors import UserError
from runtime.manifest import Port, Program
from runtime.quiet import quiet
from runtime.sessions.coreai import FILE

BYTES_PER_WEIGHT = 4.7  # of memory that conversion takes, as measured
FLOAT, INT = "float32", "int32"
Shape = list[int | str]


@dataclass(frozen=True)
class Input:
    """Of a function; its one named axis is dynamic."""

    name: str
    dtype: str
    shape: Shape
    longest: int

    def example(self) -> Tensor:
        """Of four, where the axis is dynamic."""
        sizes = [4 if isinstance(size, str) else size for size in self.shape]
        return torch.zeros(sizes, dtype=getattr(torch, self.dtype))

    def dynamic(self) -> dict[int, Any]:
        return {axis: Dim(size, min=1, max=self.longest)
                for axis, size in enumerate(self.shape) if isinstance(size, str)}  # fmt: skip


@dataclass(frozen=True)
class Function:
    """One of an asset: its module, made when it is traced, and its ports."""

    make: Callable[[Weights], nn.Module]
    inputs: list[Input]
    output: Port

    def trace(self, weights: Weights) -> ExportedProgram:
        module, examples = self.make(weights).eval(), tuple(port.example() for port in self.inputs)
        with torch.no_grad():
            shapes = tuple(port.dynamic() for port in self.inputs)
            return export(module, examples, dynamic_shapes=shapes, strict=False).run_decompositions(_decompositions())


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Core AI's, and what its converter lacks: remainders, and writes along any but the first axis."""
    table = get_decomp_table()  # fills itself as it is used, so that `|` would lose most of it
    table[torch.ops.aten.remainder.Scalar] = _remainder
    table[torch.ops.aten.index_copy.default] = _index_copy
    return table


def _remainder(x: Tensor, divisor: int) -> Tensor:
    return x - torch.div(x, divisor, rounding_mode="floor") * divisor


def _index_copy(x: Tensor, axis: int, index: Tensor, source: Tensor) -> Tensor:
    return x.transpose(0, axis).index_put((index,), source.transpose(0, axis)).transpose(0, axis)


def functions(model: Model, sizes: Sizes) -> dict[str, Function]:
    """Those a model has, by role."""
    found = {"embedding": _embedding(model, sizes), "decoder": _decoder(model, sizes)}
    found |= {"vision": _vision(model, sizes)} if model.image else {}
    return found | ({"speech": _speech(model, sizes)} if model.audio else {})


def _embedding(model: Model, sizes: Sizes) -> Function:
    ids = Input("input_ids", INT, [1, "step"], sizes.step)
    return Function(lambda weights: TokenEmbedding(model.text, weights), [ids], _embeds(model, "step"))


def _vision(model: Model, sizes: Sizes) -> Function:
    image = model.image
    assert image
    patches = Input("pixel_values", FLOAT, [1, "patches", image.patch_values], sizes.image_tokens)
    cells = Input("pixel_position_ids", INT, [1, "patches", 2], sizes.image_tokens)
    return Function(lambda weights: ImageEmbedder(image, weights), [patches, cells], _embeds(model, "patches"))


def _speech(model: Model, sizes: Sizes) -> Function:
    audio = model.audio
    assert audio
    frames = Input("input_features", FLOAT, [1, "frames", audio.samples], sizes.audio_tokens)
    return Function(lambda weights: AudioEmbedder(audio, weights), [frames], _embeds(model, "frames"))


def _decoder(model: Model, sizes: Sizes) -> Function:
    text = model.text
    inputs = [
        Input("inputs_embeds", FLOAT, [1, "step", text.hidden], sizes.step),
        Input("positions", INT, ["step"], sizes.step),
        Input("blocks", INT, ["step"], sizes.step),
    ]
    output = Port(name="logits", dtype=FLOAT, shape=[1, 1, text.vocabulary])
    return Function(
        lambda weights: TextDecoder(text, weights, sizes.context, sizes.step, sizes.kv_scales), inputs, output
    )


def _embeds(model: Model, axis: str) -> Port:
    return Port(name="inputs_embeds", dtype=FLOAT, shape=[1, axis, model.text.hidden])


def require_memory(weights: int) -> None:
    """Raises:
    UserError: so many weights are more than conversion can hold.
    """
    needed, free = BYTES_PER_WEIGHT * weights, psutil.virtual_memory().available
    if needed > free:
        raise UserError(f"converting to Core AI takes {needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are free: "
                        "leave coreai out, or export on a larger machine")  # fmt: skip


def write_coreai(model: Model, weights: Weights, folder: Path, sizes: Sizes) -> None:
    """Writes the asset into an existing folder. All weights are in memory meanwhile, several times over."""
    converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
    with catch_warnings(), quiet():
        simplefilter("ignore")  # of deprecated calls that torch makes within itself
        for role, function in functions(model, sizes).items():
            names = [port.name for port in function.inputs]
            converter.add_exported_program(function.trace(weights), input_names=names,
                                           output_names=[function.output.name], entrypoint_name=role)  # fmt: skip
        converter.to_coreai().save_asset(folder / FILE, _metadata(model, sizes))


def _metadata(model: Model, sizes: Sizes) -> AIModelAssetMetadata:
    """What a session must know beside the ports."""
    found, tokens = AIModelAssetMetadata(), model.tokens
    known = {"context": sizes.context, "max_step": sizes.step, "pad": tokens.pad, "image": tokens.image,
             "audio": tokens.audio, "video": tokens.video}  # fmt: skip
    for name, value in known.items():
        found.set_custom(name, -1 if value is None else value)
    return found


def describe_coreai(model: Model, sizes: Sizes) -> dict[str, Program]:
    """For the manifest: functions of the one asset. States are left out: the engine describes them."""
    return {
        role: Program(
            file=FILE,
            inputs=[Port(name=port.name, dtype=port.dtype, shape=port.shape) for port in function.inputs],
            outputs=[function.output],
        )
        for role, function in functions(model, sizes).items()
    }
