"""How the page writes numbers."""

import re

from runtime.gates import NO_NUMBER
from runtime.manifest import Measure
from runtime.measures import margin

DECIMALS_BELOW = 1e3  # from here on digits in groups of three, no exponent


def number(value: float) -> str:
    """Three digits; exponents without padding."""
    if abs(value) >= DECIMALS_BELOW:
        return f"{value:,.0f}"
    return re.sub(r"e([+-])0*", r"e\1", f"{value:.3g}").replace("e+", "e")


def value(measure: Measure) -> str:
    """Manifests keep infinity and NaN as a number that stands for them."""
    return "no number" if measure.value == NO_NUMBER else number(measure.value)


def gate(measure: Measure) -> str:
    """The bound with its direction; nothing where there is none."""
    return "" if measure.bound is None else f"{'≥' if measure.at_least else '≤'} {number(measure.bound)}"


def margin_left(measure: Measure) -> str:
    """What is left of the bound; where it is broken, by how much."""
    if measure.bound is None:
        return ""
    if measure.passed:
        return percent(margin(measure))
    if measure.value == NO_NUMBER:
        return "no number"
    return f"{number(abs(measure.value - measure.bound))} {'short' if measure.at_least else 'over'}"


def outcome(measure: Measure) -> str:
    """In a word; a measure without a bound is only reported."""
    return "reported" if measure.bound is None else "pass" if measure.passed else "fail"


def percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def count(amount: int, thing: str) -> str:
    """With a plural's s, where it is one."""
    return f"{amount:,} {thing}{'' if amount == 1 else 's'}"
