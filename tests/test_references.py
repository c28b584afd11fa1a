"""Either reference serves a bundle: the same figures, goldens of both, and the one that the memory allows."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from export.bundle import Order, _record_goldens
from export.checkpoint import read_record
from export.config import read_model
from export.facts import PROCESSOR_FILES
from export.sources import open_source
from runtime import goldens, metrics
from runtime.__main__ import app
from runtime.checks import probes, quantization, rounding
from runtime.errors import UserError
from runtime.gates import GATES
from runtime.job import Job
from runtime.manifest import Measure, ReferenceKind, Verification, read_manifest
from runtime.references import KINDS, find_kind, open_reference
from runtime.scratch import scratch
from runtime.sessions import reference
from runtime.sessions.reference import ReferenceSession
from runtime.sessions.streamed import StreamedReference
from runtime.verify import make_job, verify

COMPARED = ["lowering", "rounding", "quantization"]


@pytest.fixture
def small_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (probes, "WHOLE", probes.Extent(20, 4, None, long=True)), (rounding, "PAIRS", 5),
        (quantization, "PIECES", 2), (quantization, "QUESTIONS", 6),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """None that a whole model would fit."""
    monkeypatch.setattr(reference, "SHARE_OF_MEMORY", 0)


def by_name(verification: Verification) -> dict[tuple[str | None, ...], Measure]:
    return {(m.check, m.engine, m.modality, m.name): m for m in verification.measures}


@pytest.mark.usefixtures("small_checks")
def test_both_measure_the_same(bundle: Path, quantized_checkpoint: Path, tiny_checkpoint: Path) -> None:
    """Gates aside, which need more positions."""
    kinds: tuple[ReferenceKind, ...] = ("whole", "streamed")
    results = [verify(bundle, quantized_checkpoint, tiny_checkpoint, only=COMPARED, reference=kind) for kind in kinds]
    assert [result.reference for result in results] == ["whole", "streamed"]
    whole, streamed = map(by_name, results)
    assert whole.keys() == streamed.keys() and {key[0] for key in whole} == set(COMPARED)
    assert all(abs(streamed[key].value - measure.value) < 1e-5 for key, measure in whole.items())


@pytest.mark.usefixtures("small_checks")
def test_figures_of_another_model_differ(bundle: Path, quantized_checkpoint: Path, tiny_checkpoint: Path) -> None:
    """The control: a streamed source in place of the streamed quantized checkpoint leaves no quantization error."""

    def kl(checkpoint: Path) -> float:
        job = make_job(bundle, quantized_checkpoint, tiny_checkpoint, None, GATES, lambda text: None, "streamed")
        job.reference = StreamedReference.open(checkpoint)
        return next(measure.value for measure in quantization.run(job) if measure.name == "quantization_kl")

    assert kl(quantized_checkpoint) > 1e-3 and kl(tiny_checkpoint) == 0


# Which one


def job_of(bundle: Path, quantized: Path, kind: ReferenceKind = "whole") -> Job:
    return make_job(bundle, quantized, None, None, GATES, lambda text: None, kind)


def test_memory_decides(bundle: Path, quantized_checkpoint: Path, request: pytest.FixtureRequest) -> None:
    assert isinstance(job_of(bundle, quantized_checkpoint).reference, ReferenceSession)
    request.getfixturevalue("no_memory")
    assert job_of(bundle, quantized_checkpoint).kind == "none"
    assert isinstance(job_of(bundle, quantized_checkpoint, "streamed").reference, StreamedReference)


@pytest.mark.usefixtures("no_memory")
def test_a_whole_reference_that_does_not_fit_is_skipped(bundle: Path, quantized_checkpoint: Path) -> None:
    result = verify(bundle, quantized_checkpoint, only=["rounding"], reference="whole")
    assert not result.ran and "GB of memory" in result.skipped["rounding"] and result.reference == "none"
    assert "--reference streamed" in result.skipped["rounding"]


def test_none_is_wanted(bundle: Path, quantized_checkpoint: Path) -> None:
    result = verify(bundle, quantized_checkpoint, only=["rounding"], reference="none")
    assert not result.ran and result.skipped["rounding"] == "--reference none"


def test_unknown_references_are_named(bundle: Path) -> None:
    with pytest.raises(UserError, match=", ".join(KINDS)):
        find_kind("half")
    result = CliRunner().invoke(app, ["verify", str(bundle), "--reference", "half"])
    assert result.exit_code == 2 and "no reference 'half'" in result.stderr


# Goldens


@pytest.mark.usefixtures("no_memory")
def test_goldens_of_a_streamed_reference(
    bundle: Path, quantized_checkpoint: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Fewer tokens, and those that the whole model writes."""
    record = read_record(quantized_checkpoint)
    assert record
    for name in PROCESSOR_FILES:
        if (bundle / name).exists():
            shutil.copyfile(bundle / name, tmp_path / name)
    order = Order("desktop", ["onnx"], record, quantized_checkpoint, tiny_checkpoint, 4096, reference="streamed")
    model = read_model(open_source(quantized_checkpoint).config)
    entries = _record_goldens(order, model, tmp_path, lambda text: None)
    before = read_manifest(bundle).goldens
    assert {entry.reference for entry in entries} == {"streamed"} and {entry.reference for entry in before} == {"whole"}
    for new, old in zip(entries, before, strict=True):
        found, wanted = goldens.read(new, tmp_path), goldens.read(old, bundle)
        count = len(found.tokens)
        assert count == min(goldens.STEPS["streamed"], len(wanted.tokens)) and found.tokens == wanted.tokens[:count]
        assert metrics.relative_rms(wanted.top_logits[:count], found.top_logits) < 1e-5


def test_other_weights_make_other_goldens(bundle: Path, tiny_checkpoint: Path) -> None:
    """The source's logits are further away than any rounding."""
    manifest = read_manifest(bundle)
    golden = goldens.read(manifest.goldens[0], bundle)
    (text,) = open_reference(tiny_checkpoint, "streamed").generate([golden.inputs], manifest.tokens, 1)
    assert metrics.relative_rms(golden.top_logits[:1], text.logits[:, golden.top_ids[0]]) > 1e-3


# Logits on disk


def test_scratch_is_zero_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = scratch(3, 5)
    assert array.shape == (3, 5) and array.dtype == np.float32 and not array.any()
    array[1] = 7
    assert array.sum() == 35 and not list(tmp_path.iterdir()) and scratch(0, 5).shape == (0, 5)


@pytest.mark.parametrize("at_once", [1, 70, 10**6])
def test_figures_do_not_depend_on_how_many_rows_are_at_once(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    rng = np.random.default_rng(0)
    p, q, tokens = rng.normal(size=(9, 30)), rng.normal(size=(9, 30)), rng.integers(0, 30, 9)

    def figures() -> list[Any]:
        return [metrics.kl_divergence(p, q), metrics.row_rms(p, q), metrics.top_gaps(p), metrics.relative_rms(p, q),
                metrics.largest_difference(p, q), metrics.perplexity(p, tokens)]  # fmt: skip

    wanted = figures()
    monkeypatch.setattr(metrics, "AT_ONCE", at_once)
    assert all(np.allclose(got, want, rtol=1e-12) for got, want in zip(figures(), wanted, strict=True))
