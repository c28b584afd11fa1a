"""Random models as Core ML packages, for the tests of lowering and of sessions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from export.config import Model
from export.lowering.coreml_bundle import write_coreml
from export.lowering.coreml_ops import FP16
from export.lowering.coreml_ports import Sizes
from export.schemes import Scheme
from export.weights import Weights
from runtime.manifest import Artifact, Tokens
from runtime.sessions.coreml import CoremlSession
from tests import random_models as models
from tests.parity import quantize

SIZES = Sizes(context=128, prefill=32, image_tokens=12, audio_tokens=4)


def tokens(model: Model) -> Tokens:
    special = model.tokens
    media = dict.fromkeys(("begin_image", "end_image", "begin_audio", "end_audio"))
    return Tokens(bos=2, eos=[1], pad=special.pad, suppress=[], image=special.image, audio=special.audio,
                  video=special.video, **media)  # fmt: skip


def write(model: Model, weights: Weights, folder: Path, sizes: Sizes = SIZES, dtype: type = FP16) -> Artifact:
    """By the product's route."""
    return write_coreml(model, weights, folder, sizes, "a test", dtype)


class Lowered:
    """A random model in transformers, and what was made of it."""

    def __init__(
        self, folder: Path, scheme: Scheme | None, sizes: Sizes = SIZES, dtype: type = FP16,
        change: Callable[[Any], None] = lambda reference: None, **options: Any,
    ) -> None:  # fmt: skip
        self.reference = models.random_model(models.random_config(**options))
        change(self.reference)
        self.model, self.weights = quantize(self.reference, scheme)
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.sizes = sizes
        self.artifact = write(self.model, self.weights, folder, sizes, dtype)

    def session(self, exact: bool = False) -> CoremlSession:
        return CoremlSession(self.folder, self.artifact, tokens(self.model), exact)
