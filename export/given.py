"""What a source decides of its own quantization: its weights are packed already, or were trained for a grid."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from export.checkpoint import CONFIG
from export.grid import GROUP, ON_GRID, keep_grid, share_on_grid
from export.packed import PackedSource
from export.recipes import PROJECTION, Recipe
from export.schemes import INT4, Rounding
from export.sources import Source
from runtime.errors import UserError

SAMPLED_ROWS = 64  # of a weight
TABLE_PIECES, PIECE_ROWS = 16, 8  # of an embedding
NAMED_QAT = re.compile(r"(?<![a-z])qat(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Given:
    """Roundings by name of weight, where the source decides."""

    roundings: Mapping[str, Rounding] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)  # of these, weights on a grid beside packed ones
    notes: list[str] = field(default_factory=list)  # for people


def given_by(source: Source, recipe: Recipe, name: str) -> Given:
    """
    Args:
        name: the model's, which may say that it was trained for 4 bits.

    Raises:
        UserError: the recipe would round weights on a grid anew.
    """
    return _beside_packed(source, recipe) if isinstance(source, PackedSource) else _of_trained(source, recipe, name)


def _beside_packed(source: PackedSource, recipe: Recipe) -> Given:
    """Releases pack the layers alone: the embedding, and a head of its own, may still have values on a grid."""
    packed = {name: source.rounding(name) for name in source.tensors if source.scheme_of(name)}
    others = [name for name in source.tensors if name not in packed and recipe.scheme_of(name)]
    found = [name for name in others if recipe.scheme_of(name) == INT4 and _share(_all_over(source, name)) > ON_GRID]
    notes = [f"{name} is rounded plainly, not as {recipe.name} says: it lies on no grid of 4 bits, and nothing is "
             "calibrated beside weights that are packed already"
             for name in others if name not in found and recipe.method != "plain"]  # fmt: skip
    return Given(packed | dict.fromkeys(found, keep_grid), found, notes)


def _of_trained(source: Source, recipe: Recipe, name: str) -> Given:
    schemes = {
        each: scheme for each in source.tensors if PROJECTION.search(each) and (scheme := recipe.scheme_of(each))
    }
    if not schemes:
        return Given()
    if (share := _share(_first_and_last(source, list(schemes)))) <= ON_GRID:
        return Given(notes=[f"named QAT but not on a 4-bit grid: {share:.0%} of the sampled groups are; rounded anew"]
                     if _is_named_qat(source, name) else [])  # fmt: skip
    if set(schemes.values()) != {INT4}:
        raise UserError(f"{source.folder} has weights on a grid of 4 bits in groups of {GROUP}, which recipe "
                        f"{recipe.name} would round anew: choose RECIPE=int4, which keeps them")  # fmt: skip
    return Given(dict.fromkeys(filter(recipe.scheme_of, source.tensors), keep_grid))


def _is_named_qat(source: Source, name: str) -> bool:
    texts = name, source.folder.absolute().name, (source.folder / CONFIG).read_text()
    return any(NAMED_QAT.search(text) for text in texts)


def _share(samples: Iterable[Tensor]) -> float:
    """Of groups on a grid."""
    return share_on_grid([rows for rows in samples if rows.shape[-1] % GROUP == 0])


def _first_and_last(source: Source, names: list[str]) -> list[Tensor]:
    """Some rows of the first and the last weight that has whole groups."""
    whole = [name for name in names if source.tensors[name].shape[-1] % GROUP == 0]
    return [source.rows(name, 0, SAMPLED_ROWS) for name in whole[:1] + whole[-1:]]


def _all_over(source: Source, name: str) -> list[Tensor]:
    """Some rows of a table, from all over it: the first ones stand for special tokens, and may be unlike the others."""
    rows = source.tensors[name].shape[0]
    starts = range(0, rows, max(1, rows // TABLE_PIECES))
    return [source.rows(name, start, start + PIECE_ROWS) for start in starts]
