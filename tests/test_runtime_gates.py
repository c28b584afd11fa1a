"""The table of bars and how users change it."""

import math

import pytest

from runtime.errors import UserError
from runtime.gates import GATES, at_least, at_most, measured, override
from runtime.manifest import Measure


def test_bounds_hold_in_their_direction() -> None:
    assert at_most(1, "").holds(1) and not at_most(1, "").holds(1.1)
    assert at_least(1, "").holds(1) and not at_least(1, "").holds(0.9)


def test_no_number_holds_no_gate() -> None:
    assert not at_most(1, "").holds(math.nan) and not at_least(1, "").holds(math.nan)


def test_override_changes_one_bound() -> None:
    gates = override(GATES, ["kl_mean=1e-3"])
    assert gates["kl_mean"].bound == 1e-3 and gates["top_1"] == GATES["top_1"]
    assert GATES["kl_mean"].bound == 2e-3


@pytest.mark.parametrize("setting", ["kl_mean", "kl_mean=", "kl_mean=little"])
def test_a_bound_must_be_a_number(setting: str) -> None:
    with pytest.raises(UserError, match="kl_mean=NUMBER"):
        override(GATES, [setting])


def test_an_unknown_gate_lists_those_that_exist() -> None:
    with pytest.raises(UserError, match="twin_rms"):
        override(GATES, ["speed=1"])


def test_measures_without_a_gate_are_only_reported() -> None:
    reported = measured(GATES, "lowering", "kl_max", 1e9)
    assert reported.passed and reported.bound is None
    gated = measured(GATES, "lowering", "top_1", 0.5)
    assert not gated.passed and gated.at_least and gated.bound == 0.99


def test_no_number_is_stored_as_one() -> None:
    """JSON has no NaN, and phones read it."""
    measure = measured(GATES, "lowering", "top_1", math.nan)
    assert not measure.passed and Measure.model_validate_json(measure.model_dump_json()) == measure
