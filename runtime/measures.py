"""Measures as people read them: those of the same thing side by side, and how close each came to its bound."""

from collections.abc import Iterable

from runtime.manifest import Measure


def group_rows(measures: Iterable[Measure]) -> list[list[Measure]]:
    """Measures of the same thing on different kinds of input."""
    rows: dict[tuple[str, str | None, str], list[Measure]] = {}
    for measure in measures:
        rows.setdefault((measure.check, measure.engine, measure.name), []).append(measure)
    return list(rows.values())


def margin(measure: Measure) -> float:
    """How much is left, as a share: of an upper bound what is not used up, of a lower one what is above it.

    Infinite where there is no bound; of a bound of 0, 1 less what is over it.
    """
    if measure.bound is None:
        return float("inf")
    room = measure.value - measure.bound if measure.at_least else measure.bound - measure.value
    return room / measure.bound if measure.bound else room + 1


def worst_last(measures: Iterable[Measure]) -> list[Measure]:
    """Failed ones, then by margin; without bounds, the largest value counts as worst."""
    return sorted(measures, key=lambda measure: (not measure.passed, -margin(measure), measure.value))
