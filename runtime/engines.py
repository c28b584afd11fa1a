"""Which engines run the artifacts of each format. A new format is one more row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UserError
from runtime.manifest import Manifest, TensorDigest
from runtime.readback import BITS, OnnxWeights
from runtime.sessions import coreml_native
from runtime.sessions.base import Session
from runtime.sessions.coreai import CoreaiSession
from runtime.sessions.coreml import CoremlSession
from runtime.sessions.executorch import ExecutorchSession
from runtime.sessions.genai import GenaiSession
from runtime.sessions.onnx import OnnxSession

# From a format's folder and the weights recorded, the inputs that share a scale when they are rounded to int8, by
# linear module; None: a whole row does.
Rounds = Callable[[Path, Sequence[TensorDigest]], dict[str, int | None]]


def _mat_mul_n_bits(folder: Path, tensors: Sequence[TensorDigest]) -> dict[str, int | None]:
    return dict(OnnxWeights(folder).block_sizes())


def _rows(folder: Path, tensors: Sequence[TensorDigest]) -> dict[str, int | None]:
    return {tensor.name.removesuffix(".weight"): None for tensor in tensors if tensor.dtype in BITS}


@dataclass(frozen=True)
class Engine:
    """A way to run the files in a format's folder."""

    name: str
    choice: str  # what people call it on a command line
    open: Callable[..., Session]  # from the folder, and a number of threads where it takes one
    splits_media: bool = True  # takes media in any prefill, not in the first alone
    exact: Callable[[Path], Session] | None = None  # the same artifact without rounded activations: its float twin
    twin_apart: bool = False  # where `exact` runs another artifact, lowered from dequantized weights
    rounds: Rounds | None = _mat_mul_n_bits  # None: no activation is rounded to int8
    half: bool = False  # computes in fp16 instead of rounding to int8; keys and values of its twin are fp16 too
    takes_threads: bool = True
    evaluates: bool = False  # reads programs as a reference does, at a speed that means nothing
    late: tuple[str, ...] = ()  # modules that are not imported before an artifact is opened


ENGINES = {
    "onnx": (
        Engine(OnnxSession.name, "onnx", OnnxSession, exact=lambda folder: OnnxSession(folder, exact=True)),
        Engine(GenaiSession.name, "genai", GenaiSession, splits_media=False),
    ),
    "executorch": (
        Engine(
            ExecutorchSession.name,
            "executorch",
            ExecutorchSession,
            exact=ExecutorchSession,
            twin_apart=True,
            rounds=_rows,
            late=("executorch.kernels.quantized", "executorch.runtime"),
        ),
    ),
    "coreml": (
        Engine(
            CoremlSession.name,
            "coreml",
            CoremlSession.open,
            exact=lambda folder: CoremlSession.open(folder, exact=True),
            rounds=None,
            half=True,
            takes_threads=False,
            evaluates=not coreml_native.HERE,
            late=("coremltools",),
        ),
    ),
    "coreai": (
        Engine(
            CoreaiSession.name,
            "coreai",
            CoreaiSession,
            exact=CoreaiSession,
            rounds=None,
            takes_threads=False,
            late=("coreai.authoring", "coreai.runtime"),
        ),
    ),
}


def find_engine(manifest: Manifest, choice: str | None = None) -> tuple[Engine, str]:
    """An engine of a bundle's artifacts and its format; without a choice the first there is.

    Raises:
        UserError: there is no such engine, or the bundle has nothing for it.
    """
    there = {engine.choice: (engine, format_) for format_ in manifest.artifacts for engine in ENGINES.get(format_, ())}
    wanted = choice or next(iter(there), "")
    if wanted not in there:
        raise UserError(f"the bundle has no artifact for engine {wanted!r}; there are {', '.join(there)}")
    return there[wanted]
