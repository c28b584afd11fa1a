"""Where every row holds a flipped rounding, fp64 in torch says how far rows may be off, and other arithmetic fails."""

from dataclasses import replace
from pathlib import Path

import pytest

from runtime.checks import rounding
from runtime.gates import GATES
from runtime.job import Job
from runtime.manifest import Measure
from runtime.sessions.reference import ReferenceSession
from tests.test_int8_gates import job_of

STRICT = GATES | {"row_median": replace(GATES["row_median"], bound=1e-12)}


def medians(job: Job) -> list[Measure]:
    return [measure for measure in rounding.run(job) if measure.name == "row_median"]


@pytest.fixture
def strict(bundle: Path, quantized_checkpoint: Path) -> Job:
    """A bound that no fp32 holds."""
    return job_of(bundle, quantized_checkpoint, STRICT)


def test_fp64_is_asked_where_the_table_does_not_hold(strict: Job) -> None:
    for measure in medians(strict):
        assert measure.passed and measure.bound and 1e-12 < measure.bound < 1e-5 and "from fp64" in measure.note
        assert measure.value > 1e-12, "control: the table's does not hold"


def test_control_other_arithmetic_fails(strict: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch rounds nothing: neither to fp64's nor to its own answers is int8 near."""
    monkeypatch.setattr(ReferenceSession, "variant", lambda self, blocks, kv_scales: self)
    assert all(not measure.passed for measure in medians(strict))
