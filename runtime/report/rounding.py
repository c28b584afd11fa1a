"""What rounding cost each weight, from the quantized checkpoint's record."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.errors import UserError
from runtime.manifest import QUANTIZED, RECORD, Manifest, TensorDigest
from runtime.quantized import read_own_record
from runtime.sensitivity import Sensitivity

LAYER = re.compile(r"model\.layers\.(\d+)\.(?:.*\.)?(\w+)\.weight$")
ORDER = "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"  # others after them


class TensorError(BaseModel):
    """Rms of the difference over rms of the weights."""

    name: str
    error: float
    plain_error: float  # with plain absmax scales


class Record(BaseModel):
    """Of the quantizer's record, what is told here."""

    model_config = ConfigDict(extra="ignore")

    tensors: list[TensorDigest]
    errors: list[TensorError]
    error: float
    plain_error: float
    sensitivity: list[Sensitivity] = []


@dataclass(frozen=True)
class Rounding:
    """Errors by layer and module of the decoder, and of the weights outside its layers."""

    record: Record

    @cached_property
    def layers(self) -> dict[int, dict[str, TensorError]]:
        found: dict[int, dict[str, TensorError]] = {}
        for error in self.record.errors:
            if match := LAYER.search(error.name):
                found.setdefault(int(match[1]), {})[match[2]] = error
        return dict(sorted(found.items()))

    @property
    def modules(self) -> list[str]:
        there = {module for modules in self.layers.values() for module in modules}
        return sorted(there, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))

    @property
    def others(self) -> list[TensorError]:
        return [error for error in self.record.errors if not LAYER.search(error.name)]

    @property
    def sensitive(self) -> list[Sensitivity]:
        """The most sensitive first."""
        return sorted(self.record.sensitivity, key=lambda one: -one.divergence)

    def share(self, found: Sensitivity) -> float:
        """Of the weights that are quantized."""
        return found.weights / sum(one.weights for one in self.record.sensitivity)

    def scheme(self, found: Sensitivity) -> str:
        """What the tensor became."""
        return next(_scheme(tensor) for tensor in self.record.tensors if tensor.name == found.name)

    def heat(self, error: TensorError) -> float:
        """0 for the smallest error of all, 1 for the largest."""
        errors = [one.error for one in self.record.errors]
        span = max(errors) - min(errors)
        return (error.error - min(errors)) / span if span else 0.0


def _scheme(tensor: TensorDigest) -> str:
    return f"{tensor.dtype} in groups of {tensor.group}" if tensor.group else f"{tensor.dtype} by row"


def read_rounding(name: str, manifest: Manifest, quantized: Path | None) -> Rounding | str:
    """The record, or why there is none to tell of.

    Args:
        name: of the bundle, after which exports name the quantized checkpoint.
        quantized: the quantized checkpoint; by default the one of that name under build/quantized.

    Raises:
        UserError: `quantized` is given and holds no record, or one of other weights.
    """
    folder = quantized or QUANTIZED / name
    try:
        record = _read(folder, manifest)
    except UserError as error:
        if quantized:
            raise
        return str(error)
    return Rounding(record) if record.errors else "No weight was rounded for this bundle."


def _read(folder: Path, manifest: Manifest) -> Record:
    try:
        return Record.model_validate(read_own_record(folder, manifest))
    except ValidationError as error:
        raise UserError(
            f"{folder / RECORD} is no record of a quantization ({error.errors()[0]['msg']}): quantize again"
        ) from None
