"""Random models as Core ML packages, for the tests of lowering and of sessions."""

from pathlib import Path
from typing import Any

from export.config import Model
from export.lowering.coreml_bundle import write_coreml
from export.lowering.coreml_ops import FP16
from export.lowering.coreml_ports import Sizes
from export.schemes import Scheme
from runtime.manifest import Tokens
from runtime.sessions.coreml import CoremlSession
from tests import random_models as models
from tests.executorch_models import quantize

SIZES = Sizes(context=128, prefill=32, image_tokens=12, audio_tokens=4)


def tokens(model: Model) -> Tokens:
    special = model.tokens
    return Tokens(bos=2, eos=[1], pad=special.pad, suppress=[], image=special.image, audio=special.audio, video=special.video,
                  begin_image=None, end_image=None, begin_audio=None, end_audio=None)  # fmt: skip


class Lowered:
    """A random model in transformers, and what was made of it."""

    def __init__(
        self, folder: Path, scheme: Scheme | None, sizes: Sizes = SIZES, dtype: type = FP16, **options: Any
    ) -> None:
        self.reference = models.random_model(models.random_config(**options))
        self.model, self.weights = quantize(self.reference, scheme)
        self.folder = folder
        self.sizes = sizes
        self.artifact = write_coreml(self.model, self.weights, folder, sizes, "a test", dtype)

    def session(self, exact: bool = False) -> CoremlSession:
        return CoremlSession(self.folder, self.artifact, tokens(self.model), exact)
