"""How each weight is rounded once a checkpoint has been calibrated, from the files that calibration left."""

import re
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from export.calibration.gptq import factorize, round_rows
from export.calibration.streamed import CODES, HEAD, IMPORTANCE, MOMENTS, SCALES, layer_file
from export.recipes import EMBEDDING, Recipe
from export.schemes import Quantized, Rounding, Scheme, measure, pack, quantize_rows
from runtime.architectures import EMBEDDING as TABLE

IN_LAYER = re.compile(r"\.layers\.(\d+)\.(.+)\.weight$")
# An error of the tied embedding counts twice: in the head by what enters it, in the lookup every column alike.
LOOKUP = 1.0


def rounding_of(name: str, scheme: Scheme, recipe: Recipe, folder: Path) -> Rounding:
    """What rounds rows of the weight `name`."""
    if EMBEDDING.search(name):
        return _head_rounding(scheme, recipe, folder, tied=name.endswith(TABLE))
    layer, module = name.rpartition(".layers.")[2].removesuffix(".weight").split(".", 1)
    with safe_open(layer_file(folder, int(layer)), framework="pt") as file:
        if f"{module}.{CODES}" in file.keys():  # noqa: SIM118  a safetensors file is no dict
            return StoredCodes(file.get_tensor(f"{module}.{CODES}"), file.get_tensor(f"{module}.{SCALES}"))
        return Weighted(file.get_tensor(f"{module}.{IMPORTANCE}"))


def _head_rounding(scheme: Scheme, recipe: Recipe, folder: Path, tied: bool) -> Rounding:
    moments = load_file(folder / f"{HEAD}.safetensors")[MOMENTS]
    if tied:
        moments = of_tied_head(moments)
    if recipe.method != "compensated":
        return Weighted(moments.diagonal().clone())
    return Compensated(moments, scheme)


def of_tied_head(moments: Tensor) -> Tensor:
    """[width, width], X^T X of what enters the head, changed in place to serve the lookup as well."""
    moments.diagonal().add_(LOOKUP * moments.diagonal().mean())
    return moments


class Weighted:
    """The scale of least weighted squared error."""

    def __init__(self, importance: Tensor) -> None:
        self.importance = importance  # [columns]

    def __call__(self, rows: Tensor, start: int, scheme: Scheme) -> Quantized:
        return quantize_rows(rows, scheme, self.importance)


class StoredCodes:
    """Chosen while the layers were calibrated."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        self.codes, self.scales = codes, scales  # packed, of all rows

    def __call__(self, rows: Tensor, start: int, scheme: Scheme) -> Quantized:
        some = slice(start, start + len(rows))
        return measure(rows, self.codes[some], self.scales[some], scheme)


class Compensated:
    """GPTQ, for a weight whose inputs are known by their moments."""

    def __init__(self, moments: Tensor, scheme: Scheme) -> None:
        self.factor = factorize(moments, scheme)

    def __call__(self, rows: Tensor, start: int, scheme: Scheme) -> Quantized:
        codes, scales = round_rows(rows, self.factor, scheme)
        return measure(rows, pack(codes, scheme), scales, scheme)
