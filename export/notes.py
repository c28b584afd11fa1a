"""What people are told of a quantization besides how far it is: before it begins, and in the summary it ends with."""

import re
from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape

from export.recipes import PROJECTION, Recipe
from export.sources import Source

# Of calibration with int4-gptq at the 12B's widths, one thread (docs/exporting.md, benchmarks.calibration).
HOURS = 0.8  # for a billion weights of layers
BYTES, LAYER = 5.5e9, 241_827_840  # peak of memory, and weights of the largest layer, to whose widths it is due
LEAST_BYTES = 1e9  # the libraries alone take nearly as much
TOLERATED = 0.03  # share of groups rounded anew among weights that were trained for 4 bits
LACKING = {"all": "chat", "tools": "tools in their chat"}  # by part of a chat template
INDEX = re.compile(r"\.layers\.(\d+)\.")


def tell(text: str) -> None:
    """A line on stderr that stays."""
    Console(stderr=True, soft_wrap=True).print(escape(text))


def calibration_cost(source: Source, recipe: Recipe) -> str:
    """Expected, before it begins."""
    layers: Counter[str] = Counter()
    for name in filter(PROJECTION.search, source.tensors):
        rows, columns = source.tensors[name].shape
        layers[INDEX.search(name)[1]] += rows * columns  # type: ignore[index]
    hours = HOURS * layers.total() / 1e9
    time = f"{hours:.1f} processor hours" if hours >= 0.1 else "a few processor minutes"
    memory = max(LEAST_BYTES, BYTES * max(layers.values()) / LAYER)
    return (f"calibrating {_compared(recipe)} {time}, in about {memory / 1e9:.1f} GB of memory, carried over from two "
            "layers of the 12B's widths (docs/exporting.md); interrupted, it goes on where it was")  # fmt: skip


def _compared(recipe: Recipe) -> str:
    """With int4-gptq, which was measured."""
    if recipe.wants_budget:  # sensitivity comes first
        return "takes more than"
    return "takes about" if recipe.method == "compensated" else "takes less than"


def template_warnings(undescribed: Mapping[str, str]) -> list[str]:
    """What apps will not have, as they cannot run a template.

    Args:
        undescribed: the manifest's, reasons by part of the chat template.
    """
    return [f"apps have no {LACKING[part]}: {reason}" for part, reason in undescribed.items()]


def grid_warnings(grid: Mapping[str, int]) -> list[str]:
    """Where more than a few of the groups that were trained for 4 bits are rounded anew.

    Args:
        grid: groups by the name of their `grid.Fit`.
    """
    total, anew = sum(grid.values()), grid.get("none", 0) + grid.get("unfit", 0)
    if anew <= TOLERATED * total:
        return []
    return [f"{anew / total:.1%} of the groups were rounded anew, as no format here holds them as they are: what "
            "training for 4 bits gained may be lost, look at the quantization error"]  # fmt: skip
