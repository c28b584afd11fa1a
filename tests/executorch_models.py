"""Random models as ExecuTorch programs, for the tests of lowering and of sessions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from export.config import Model
from export.lowering.executorch_program import constant_methods, lower_streamed, write
from export.lowering.torch_modules import Sizes
from export.schemes import Scheme
from export.weights import FloatTwin, Weights
from runtime.sessions.executorch import ExecutorchSession
from tests import random_models as models
from tests.parity import quantize

SIZES = Sizes(context=128, step=64, image_tokens=100, audio_tokens=8)
SHALLOW: dict[str, Any] = dict(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])


def lower(model: Model, weights: Weights, folder: Path, data_file: bool = False, sizes: Sizes = SIZES) -> Path:
    """By the product's route."""
    write(lower_streamed(model, weights, sizes, constants(model), data_file), folder)
    return folder


def constants(model: Model) -> dict[str, Any]:
    return constant_methods(model, SIZES, [1, 106], 2)


class Lowered:
    """A random model in transformers, and what was made of it."""

    def __init__(
        self, folder: Path, scheme: Scheme, twin: bool = False, data_file: bool = False,
        once: Callable[[Path, Callable[[], object]], object] = lambda folder, make: make(),
        **options: Any,
    ) -> None:  # fmt: skip
        """
        Args:
            once: makes the folder, or finds that another worker did: the same options give the same model.
        """
        self.reference = models.random_model(models.random_config(**options))
        self.model, self.weights = quantize(self.reference, scheme)
        folder.mkdir(exist_ok=True)
        self.folder = folder
        weights = FloatTwin(self.weights) if twin else self.weights
        once(folder, lambda: lower(self.model, weights, folder, data_file))
        self.session = ExecutorchSession(self.folder)
