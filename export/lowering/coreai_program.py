"""A model as one `.aimodel` of Core AI: decoder and embedders are functions of it, caches are the decoder's states."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from coreai.runtime import AIModelAssetMetadata
from coreai_torch import TorchConverter, get_decomp_table
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from export.config import Model
from export.lowering.coreai_modules import AudioEmbedder, ImageEmbedder, TextDecoder, TokenEmbedding
from export.lowering.torch_modules import Sizes
from export.weights import Weights
from runtime.manifest import Port, Program
from runtime.quiet import quiet
from runtime.sessions.coreai import FILE

FLOAT, INT = "float32", "int32"  # the engine has no int64
EXAMPLE = 4  # length of a dynamic axis where torch traces


@dataclass(frozen=True)
class Function:
    """One of an asset: its module, made when it is traced, and its ports."""

    make: Callable[[Weights], nn.Module]
    inputs: list[Port]
    output: Port
    longest: int  # of the dynamic axis, which all inputs share

    def trace(self, weights: Weights) -> ExportedProgram:
        axis = Dim("length", min=1, max=self.longest)
        shapes = tuple({place: axis for place, size in enumerate(port.shape) if isinstance(size, str)}
                       for port in self.inputs)  # fmt: skip
        module, examples = self.make(weights).eval(), tuple(map(_example, self.inputs))
        with torch.no_grad():
            return export(module, examples, dynamic_shapes=shapes, strict=False).run_decompositions(_decompositions())


def _example(port: Port) -> Tensor:
    sizes = [EXAMPLE if isinstance(size, str) else size for size in port.shape]
    return torch.zeros(sizes, dtype=getattr(torch, port.dtype))


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


# The functions of a model


def functions(model: Model, sizes: Sizes) -> dict[str, Function]:
    """Those a model has, by role."""
    makers = {"embedding": _embedding, "decoder": _decoder}
    makers |= {"vision": _vision} if model.image else {}
    makers |= {"speech": _speech} if model.audio else {}
    return {role: make(model, sizes) for role, make in makers.items()}


def _embedding(model: Model, sizes: Sizes) -> Function:
    ids = Port(name="input_ids", dtype=INT, shape=[1, "step"])
    return Function(lambda weights: TokenEmbedding(model.text, weights), [ids], _embeds(model, "step"), sizes.step)


def _vision(model: Model, sizes: Sizes) -> Function:
    image = model.image
    assert image
    patches = Port(name="pixel_values", dtype=FLOAT, shape=[1, "patches", image.patch_values])
    cells = Port(name="pixel_position_ids", dtype=INT, shape=[1, "patches", 2])
    return Function(lambda weights: ImageEmbedder(image, weights), [patches, cells], _embeds(model, "patches"),
                    sizes.image_tokens)  # fmt: skip


def _speech(model: Model, sizes: Sizes) -> Function:
    audio = model.audio
    assert audio
    frames = Port(name="input_features", dtype=FLOAT, shape=[1, "frames", audio.samples])
    return Function(lambda weights: AudioEmbedder(audio, weights), [frames], _embeds(model, "frames"),
                    sizes.audio_tokens)  # fmt: skip


def _decoder(model: Model, sizes: Sizes) -> Function:
    indices = [Port(name=name, dtype=INT, shape=["step"]) for name in ("positions", "blocks")]
    logits = Port(name="logits", dtype=FLOAT, shape=[1, 1, model.text.vocabulary])
    return Function(lambda weights: TextDecoder(model.text, weights, sizes), [_embeds(model, "step"), *indices], logits,
                    sizes.step)  # fmt: skip


def _embeds(model: Model, axis: str) -> Port:
    return Port(name="inputs_embeds", dtype=FLOAT, shape=[1, axis, model.text.hidden])


# The asset


def write_coreai(model: Model, weights: Weights, folder: Path, sizes: Sizes) -> dict[str, Program]:
    """Writes the asset into an existing folder; returns its functions, for the manifest.

    All weights are in memory meanwhile, several times over.
    """
    converter = TorchConverter(mode=TorchConverter.Mode.RELEASE)
    with catch_warnings(), quiet():
        simplefilter("ignore")  # of deprecated calls that torch makes within itself
        programs = {role: _add(converter, role, function, weights)
                    for role, function in functions(model, sizes).items()}  # fmt: skip
        converter.to_coreai().save_asset(folder / FILE, _metadata(model, sizes))
    return programs


def _add(converter: TorchConverter, role: str, function: Function, weights: Weights) -> Program:
    traced = function.trace(weights)
    converter.add_exported_program(traced, input_names=[port.name for port in function.inputs],
                                   output_names=[function.output.name], entrypoint_name=role)  # fmt: skip
    return Program(file=FILE, function=role, inputs=function.inputs, outputs=[function.output],
                   states=list(_states(traced)))  # fmt: skip


def _states(traced: ExportedProgram) -> Iterator[Port]:
    """The buffers that a trace writes, under the names that the converter takes over."""
    written = traced.graph_signature.buffers_to_mutate.values()
    for name, target in traced.graph_signature.inputs_to_buffers.items():
        if target in written:
            buffer = traced.constants[target]
            yield Port(name=name, dtype=str(buffer.dtype).removeprefix("torch."), shape=list(buffer.shape))


def _metadata(model: Model, sizes: Sizes) -> AIModelAssetMetadata:
    """What a session must know beside the ports."""
    found, tokens = AIModelAssetMetadata(), model.tokens
    known = {"context": sizes.context, "max_step": sizes.step, "pad": tokens.pad, "image": tokens.image,
             "audio": tokens.audio, "video": tokens.video}  # fmt: skip
    for name, value in known.items():
        found.set_custom(name, -1 if value is None else value)
    return found
