"""What benchmarks of decoders share: one random checkpoint lowered in several ways, engines on it, rounds of work.

Ways to lower are `onnx` and those of benchmarks/executorch_peers.py, of which `ours` is what bundles hold.
"""

import math
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

from export.checkpoint import QuantizationRecord
from runtime.readback import BITS
from runtime.sessions.base import Logits, ModelInputs, Session

PROMPT, STEPS = 256, 12  # positions prefilled and decoded in each round
FIRST = 200  # token; earlier ones may stand for images and audio


def build(folder: Path, layers: int, context: int, ways: Sequence[str]) -> None:
    """One quantized checkpoint of so many layers (0: the embedded model), lowered in each way that is not there yet."""
    from benchmarks.random_checkpoint import write_checkpoint
    from export.models import EMBEDDED
    from export.quantize import quantize
    from export.recipes import find_recipe
    from export.sources import open_source

    source, quantized = folder / "source" if layers else EMBEDDED["tiny"], folder / "quantized"
    if not quantized.exists():
        if layers:
            write_checkpoint(source, layers)
        quantize(open_source(source), find_recipe("int4"), "benchmark", quantized)
    for way in ways:
        if not (folder / way).exists():
            lower(way, quantized, folder / way, context)


def lower(way: str, quantized: Path, folder: Path, context: int) -> None:
    """One way, into a new folder."""
    from export.checkpoint import CheckpointWeights
    from export.config import read_model

    weights = CheckpointWeights(quantized)
    model = read_model(weights.config)
    folder.mkdir()
    if way == "onnx":
        from export.lowering.onnx_program import write_onnx

        write_onnx(model, weights, quantized, folder, context)
    else:
        from benchmarks.executorch_peers import write_peer
        from export.lowering.torch_modules import Sizes

        write_peer(way, model, weights, quantized, folder, Sizes.of(model, quantized, context))


def open_session(folder: Path, threads: int, cache: Path | None = None) -> Session:
    """Whichever engine the folder, named by its way or its format, is for."""
    if folder.name == "onnx":
        from runtime.sessions.onnx import OnnxSession

        return OnnxSession(folder, threads)
    from runtime.sessions.executorch import ExecutorchSession

    if folder.name in ("sdpa", "stock"):
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers custom_sdpa
    return ExecutorchSession(folder, threads, cache)


def import_engine(folder: Path, cache: Path | None) -> None:
    """Imports take seconds. With a cache the engine's come last, as the cache must be there before it."""
    wanted = ["runtime.sessions.onnx"]
    if folder.name != "onnx":
        from runtime.sessions.executorch import artifact_files
        from runtime.weight_cache import WeightCache

        wanted = [
            "executorch.kernels.quantized",
            "executorch.runtime",
            "executorch.extension.llm.custom_ops.custom_ops",
        ]
        if cache:
            WeightCache(cache, artifact_files(folder))
    for name in wanted:
        import_module(name)


class Round(NamedTuple):
    """Milliseconds per token, and the last logits."""

    prefill: float
    decode: list[float]  # of each step
    logits: Logits


def one_round(session: Session) -> Round:
    """Prefills a prompt and decodes behind it, from the beginning of a sequence."""
    session.reset()
    start = time.perf_counter()
    session.prefill(ModelInputs(np.arange(PROMPT, dtype=np.int64) + FIRST))
    prefill, steps = time.perf_counter() - start, []
    for token in range(STEPS):
        start = time.perf_counter()
        logits = session.decode(token + FIRST)
        steps.append(1e3 * (time.perf_counter() - start))
    return Round(1e3 * prefill / PROMPT, steps, logits)


def read_per_token(record: QuantizationRecord, scale_bits: int = 16) -> float:
    """Bytes of the weights that every token needs, a tied head being one of them: codes and scales."""
    quantized = [tensor for tensor in record.tensors if tensor.dtype in BITS]
    return sum(math.prod(tensor.shape) * (BITS[tensor.dtype] + scale_bits / (tensor.group or tensor.shape[1])) / 8
               for tensor in quantized)  # fmt: skip
