"""A model as one `.pte` that ExecuTorch's stock multimodal runner opens, with linears in XNNPACK."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from executorch.backends.xnnpack.partition.config.gemm_configs import AddmmConfig, LinearConfig
from executorch.backends.xnnpack.partition.config.generic_node_configs import BMMConfig
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import (
    EdgeCompileConfig,
    ExecutorchBackendConfig,
    ExecutorchProgramManager,
    to_edge_transform_and_lower,
)
from executorch.exir.backend.utils import is_same_node
from executorch.exir.passes.sym_shape_eval_pass import ConstraintBasedSymShapeEvalPass
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram, export

from export.config import Model
from export.generation import read_ends
from export.lowering.executorch_memory import CachesApart
from export.lowering.executorch_modules import AudioEncoder, TextDecoder, TokenEmbedding, VisionEncoder, patch_side
from export.lowering.executorch_ops import Loader
from export.lowering.executorch_patches.fast import fast
from export.lowering.executorch_patches.stored_once import SEGMENT_ALIGNMENT, stored_once
from export.lowering.executorch_patches.weightless import weightless
from export.lowering.executorch_streams import Sources
from export.lowering.torch_modules import Sizes
from export.weights import Weights
from runtime.sessions.executorch import DATA_FILE, FILE


@dataclass(frozen=True)
class Traced:
    """A method before lowering."""

    module: nn.Module
    example: tuple[Tensor, ...]
    dynamic: tuple[dict[int, Any], ...]  # of each input, axis to Dim


def export_methods(model: Model, loader: Loader, sizes: Sizes) -> dict[str, ExportedProgram]:
    """The methods a model has, by name."""
    makers: dict[str, Callable[[Model, Loader, Sizes], Traced]] = {"token_embedding": _token_embedding}
    makers |= {"vision_encoder": _vision_encoder} if model.image else {}
    makers |= {"audio_encoder": _audio_encoder} if model.audio else {}
    makers |= {"text_decoder": _text_decoder}
    return {name: _export(make(model, loader, sizes)) for name, make in makers.items()}


def _export(traced: Traced) -> ExportedProgram:
    with torch.no_grad():
        return export(traced.module.eval(), traced.example, dynamic_shapes=traced.dynamic, strict=False)


def _token_embedding(model: Model, loader: Loader, sizes: Sizes) -> Traced:
    step = Dim("step", min=1, max=sizes.step)
    return Traced(TokenEmbedding(model.text, loader), (torch.zeros(1, 4, dtype=torch.long),), ({1: step},))


def image_side(sizes: Sizes) -> int:
    """Soft tokens along one: twice the side of a square image, which bounds the memory planned for."""
    return min(2 * isqrt(sizes.image_tokens), sizes.image_tokens)


def _vision_encoder(model: Model, loader: Loader, sizes: Sizes) -> Traced:
    assert model.image
    side = patch_side(model.image)
    rows, columns = Dim("rows", min=1, max=image_side(sizes)), Dim("columns", min=1, max=image_side(sizes))
    pixels = torch.zeros(1, 3, 2 * side, 3 * side)
    return Traced(VisionEncoder(model.image, loader), (pixels,), ({2: side * rows, 3: side * columns},))


def _audio_encoder(model: Model, loader: Loader, sizes: Sizes) -> Traced:
    assert model.audio
    frames = Dim("frames", min=1, max=sizes.audio_tokens)
    return Traced(AudioEncoder(model.audio, loader), (torch.zeros(1, 4, model.audio.samples),), ({1: frames},))


def _text_decoder(model: Model, loader: Loader, sizes: Sizes) -> Traced:
    step = Dim("step", min=1, max=sizes.step)
    example = torch.zeros(1, 4, model.text.hidden + 1), torch.arange(4)
    return Traced(
        TextDecoder(model.text, loader, sizes.context, sizes.step, sizes.kv_scales), example, ({1: step}, {0: step})
    )


def constant_methods(model: Model, sizes: Sizes, eos: list[int], bos: int) -> dict[str, Any]:
    """What the runner asks a program, and below what our sessions do."""
    return {
        "get_max_seq_len": sizes.context,
        "get_max_context_len": sizes.context,
        "get_vocab_size": model.text.vocabulary,
        "get_bos_id": bos,
        "get_eos_ids": eos,
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": False,
        "enable_dynamic_shape": True,
        "get_max_step": sizes.step,
        "get_max_image_side": image_side(sizes),
        "get_pad_id": model.tokens.pad,
        "get_image_id": -1 if model.tokens.image is None else model.tokens.image,
        "get_audio_id": -1 if model.tokens.audio is None else model.tokens.audio,
        "get_video_id": -1 if model.tokens.video is None else model.tokens.video,
    }


def lower(
    methods: dict[str, ExportedProgram], constants: dict[str, Any], tag: str | None = None
) -> ExecutorchProgramManager:
    """Products go to XNNPACK and nothing else: its approximations of other functions would turn int8 roundings.

    Args:
        tag: of the file that holds the constants of portable operators; None: the program does.
    """
    edge = to_edge_transform_and_lower(
        methods,
        partitioner={name: [_partitioner()] for name in methods},
        compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        constant_methods=constants,
    )
    config = ExecutorchBackendConfig(
        extract_delegate_segments=True,
        segment_alignment=SEGMENT_ALIGNMENT,
        constant_tensor_alignment=SEGMENT_ALIGNMENT,  # a constant may be a delegate's segment
        do_quant_fusion_and_const_prop=False,
        external_constants=(lambda node: tag) if tag else False,
        run_reinplace_pass=True,  # caches are written in place; right only while a cache is 3-D and never viewed
        memory_planning_pass=CachesApart(),
        sym_shape_eval_pass=ConstraintBasedSymShapeEvalPass(),
    )
    with stored_once():
        program = edge.to_executorch(config)
    _forget()
    return program


def _forget() -> None:
    """Empties caches that would hold graphs, and these their weights: three times a float twin's embedding."""
    is_same_node.cache_clear()
    FakeTensorMode.cache_clear()


def _partitioner() -> XnnpackPartitioner:
    """Of linears, quantized or float, and of attention's products, which portable kernels compute on one core."""
    precisions = [ConfigPrecisionType.DYNAMIC_QUANT, ConfigPrecisionType.FP32]
    return XnnpackPartitioner(configs=[LinearConfig, AddmmConfig, BMMConfig], config_precisions=precisions)


def write_executorch(
    model: Model, weights: Weights, checkpoint: Path, folder: Path, sizes: Sizes, data_file: bool = False
) -> None:
    """Writes the program into an existing folder, at no point holding its packed weights.

    Args:
        checkpoint: folder that states which ids begin and end a text.
        data_file: puts the weights into a file beside the program.
    """
    ends = read_ends(checkpoint)
    constants = constant_methods(model, sizes, ends.eos, ends.bos)
    write(lower_streamed(model, weights, sizes, constants, data_file), folder)


def lower_streamed(
    model: Model, weights: Weights, sizes: Sizes, constants: dict[str, Any], data_file: bool = False
) -> ExecutorchProgramManager:
    """A program whose weights are read when it is written."""
    sources = Sources(weights, Path(DATA_FILE).stem if data_file else None)
    with weightless(sources), fast(sources), catch_warnings():
        simplefilter("ignore")  # of deprecated calls that torch makes within itself
        return lower(export_methods(model, sources.loader(), sizes), constants, sources.tag)


def write(program: ExecutorchProgramManager, folder: Path) -> None:
    """With its data file, where it has one."""
    with (folder / FILE).open("wb") as file:
        program.write_to_file(file)
    program.write_tensor_data_to_file(str(folder))
