"""Figures against values worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import metrics

HALVES = np.log([[0.5, 0.5]])
QUARTERS = np.log([[0.25, 0.75]])


def test_kl_by_hand() -> None:
    """0.5 log(0.5 / 0.25) + 0.5 log(0.5 / 0.75), whatever is added to the logits."""
    wanted = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert metrics.kl_divergence(HALVES + 7, QUARTERS - 100) == pytest.approx([wanted])
    assert metrics.kl_divergence(HALVES, HALVES) == pytest.approx([0])


def test_large_logits_do_not_overflow() -> None:
    assert metrics.kl_divergence(np.array([[1e4, 0.0]]), np.array([[0.0, 0.0]])) == pytest.approx([np.log(2)])


def test_differences_by_hand() -> None:
    reference, found = np.array([[3.0, 4.0]]), np.array([[3.0, 4.5]])
    assert metrics.relative_rms(reference, found) == pytest.approx(0.1)
    assert metrics.largest_difference(reference, found) == pytest.approx(0.5)


def test_top_1() -> None:
    reference = np.array([[1.0, 2], [2, 1], [0, 1], [1, 0]])
    assert metrics.top_1(reference, reference[[0, 1, 2, 2]]) == 0.75


def test_perplexity_of_chance_is_the_vocabulary() -> None:
    assert metrics.perplexity(np.zeros((5, 40)), np.arange(5)) == pytest.approx(40)


def test_top_k_breaks_ties_by_id() -> None:
    ids, values = metrics.top_k(np.array([[1.0, 3, 3, 2]]), 3)
    assert ids.tolist() == [[1, 2, 3]] and values.tolist() == [[3, 3, 2]]
    assert metrics.top_gaps(np.array([[1.0, 3, 3, 2], [0, 5, 1, 2]])).tolist() == [0, 3]


def test_forced_positions_stand_for_themselves() -> None:
    match = metrics.compare_forced([1, 2, 3, 4], [1, 9, 3, 8], gaps=[5, 0.1, 5, 5], tolerance=0.2)
    assert match.near_ties == (1,) and match.errors == (3,) and not match.equal


def test_generated_texts_part_once() -> None:
    """After a near tie the engine writes another text, which is no error."""
    near_tie = metrics.compare_generated([1, 2, 3, 4], [1, 9, 7, 7], gaps=[5, 0.1, 5, 5], tolerance=0.2)
    assert near_tie.equal and near_tie.near_ties == (1,) and near_tie.compared == 2
    assert metrics.compare_generated([1, 2, 3], [1, 9, 3], gaps=[5, 5, 5], tolerance=0.2).errors == (1,)


def test_ending_early_is_an_error() -> None:
    assert metrics.compare_generated([1, 2, 3], [1, 2], gaps=[5, 5, 5], tolerance=0.2).errors == (2,)
    assert metrics.compare_generated([1, 2], [1, 2, 3], gaps=[5, 5], tolerance=0.2).equal


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8), st.floats(-5, 5))
def test_kl_is_never_negative(logits: list[float], shift: float) -> None:
    reference = np.array([logits])
    assert metrics.kl_divergence(reference, np.roll(reference, 1) * shift)[0] >= 0


def test_gap_shifts() -> None:
    reference = np.array([[1, 5, 3, 0], [2, 2.5, 0, -1]], np.float32)
    found = np.array([[9, 4, 3.5, 0], [3, 2, 7, -1]], np.float32)
    assert metrics.gap_shifts(reference, found) == pytest.approx([1.5, 1.5])
    assert not metrics.gap_shifts(reference, reference).any()
