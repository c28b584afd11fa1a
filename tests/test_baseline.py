"""A bundle beside an older one, and what CI services get: JUnit XML and a summary in Markdown."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from runtime import baseline
from runtime.__main__ import app
from runtime.bench.worker import Seconds, Timed
from runtime.engines import ENGINES
from runtime.manifest import Manifest, Measure, Verification, read_manifest, write_manifest
from runtime.report.summary import summarize
from runtime.sessions.base import Logits, ModelInputs
from runtime.sessions.onnx import OnnxSession

QUICK = "--only", "goldens", "--gate", "baseline_speed=9"  # the machine that tests is busy


def verify(bundle: Path, *options: object) -> Result:
    return CliRunner().invoke(app, ["verify", str(bundle), *map(str, options)])


def as_json(result: Result) -> Verification:
    return Verification.model_validate_json(result.stdout)


def rewrite(bundle: Path, change: Callable[[Manifest], dict[str, object]]) -> None:
    manifest = read_manifest(bundle)
    write_manifest(bundle, manifest.model_copy(update=change(manifest)))


def was_better(manifest: Manifest) -> dict[str, object]:
    """Half the error of one modality."""
    assert manifest.verification
    measures = [halved(one) if (one.name, one.modality) == ("golden_rms", "image") else one
                for one in manifest.verification.measures]  # fmt: skip
    return {"verification": manifest.verification.model_copy(update={"measures": measures})}


def halved(measure: Measure) -> Measure:
    return measure.model_copy(update={"value": measure.value / 2})


def was_smaller(manifest: Manifest) -> dict[str, object]:
    """By 2 %."""
    return {"files": [file.model_copy(update={"size": file.size * 49 // 50}) for file in manifest.files]}


def took_less(manifest: Manifest) -> dict[str, object]:
    """Of the cache's memory."""
    artifact = manifest.artifacts["onnx"]
    cache = artifact.cache.model_copy(update={"per_position": artifact.cache.per_position // 2})
    return {"artifacts": {"onnx": artifact.model_copy(update={"cache": cache})}}


def test_a_bundle_does_not_fall_behind_itself(bundle: Path) -> None:
    found = as_json(verify(bundle, "--baseline", bundle, *QUICK, "--json"))
    beside = [measure for measure in found.measures if measure.check == "baseline"]
    assert found.passed and found.ran == ["goldens", "baseline"]
    names = {measure.name for measure in beside}
    assert {"goldens: golden_rms", "bytes", "cache", "minimum_memory", "prefill_time", "decode_time"} <= names
    assert all(measure.value == 0 for measure in beside if not measure.name.endswith("_time"))


@pytest.mark.parametrize(
    ("change", "grown"),
    [(was_better, "goldens: golden_rms"), (was_smaller, "bytes"), (took_less, "cache")],
)
def test_what_grew_by_more_than_its_margin_fails(
    bundle: Path, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, change: Callable, grown: str
) -> None:
    monkeypatch.setattr(baseline, "_why_no_race", lambda old, new: "not here")
    rewrite(bundle_copy, change)
    result = verify(bundle, "--baseline", bundle_copy, *QUICK, "--json")
    failed = {measure.name for measure in as_json(result).measures if not measure.passed}
    assert result.exit_code == 1 and failed == {grown}
    widened = [option for kind in ("fidelity", "size", "memory") for option in ("--gate", f"baseline_{kind}=1.5")]
    assert verify(bundle, "--baseline", bundle_copy, *QUICK, *widened).exit_code == 0


def had_more(manifest: Manifest) -> dict[str, object]:
    """A modality, and a figure of a check that does not run again."""
    assert manifest.verification
    first = next(measure for measure in manifest.verification.measures if measure.check == "goldens")
    more = [first.model_copy(update={"modality": "video"}), first.model_copy(update={"check": "lowering"})]
    measures = [*manifest.verification.measures, *more]
    return {"verification": manifest.verification.model_copy(update={"measures": measures})}


def had_another_format(manifest: Manifest) -> dict[str, object]:
    return {"artifacts": manifest.artifacts | {"executorch": manifest.artifacts["onnx"]}}


@pytest.mark.parametrize(("change", "gone"), [(had_more, "goldens video"), (had_another_format, "executorch")])
def test_what_is_measured_no_more_is_missed(
    bundle: Path, bundle_copy: Path, monkeypatch: pytest.MonkeyPatch, change: Callable, gone: str
) -> None:
    monkeypatch.setattr(baseline, "_why_no_race", lambda old, new: "not here")
    rewrite(bundle_copy, change)
    found = as_json(verify(bundle, "--baseline", bundle_copy, *QUICK, "--json"))
    assert [(measure.name, measure.note) for measure in found.measures if not measure.passed] == [("lost", gone)]


def test_a_slower_engine_is_seen(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(OnnxSession):
        def decode(self, token: int) -> Logits:
            time.sleep(0.02)
            return super().decode(token)

    (tmp_path / "old").symlink_to(bundle)
    slowed = replace(ENGINES["onnx"][0], open=lambda path: (OnnxSession if "old" in str(path) else Slow)(path))
    monkeypatch.setitem(baseline.ENGINES, "onnx", (slowed,))
    result = verify(bundle, "--baseline", tmp_path / "old", "--only", "files", "--gate", "baseline_speed=0.9", "--json")
    failed = {measure.name for measure in as_json(result).measures if not measure.passed}
    assert result.exit_code == 1 and "decode_time" in failed


def test_a_baseline_must_have_been_verified(bundle: Path, bundle_copy: Path) -> None:
    rewrite(bundle_copy, lambda manifest: {"verification": None})
    result = verify(bundle, "--baseline", bundle_copy, "--only", "files")
    assert result.exit_code == 2 and "was never verified" in result.stderr and result.stderr.count("\n") == 1


def test_junit_and_summary_tell_every_measure(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read by the parser of Python's own library."""
    monkeypatch.chdir(tmp_path)  # where no quantized checkpoint lies
    (bundle_copy / "config.json").unlink()
    junit, summary = tmp_path / "verify.xml", tmp_path / "summary.md"
    options = "--only", "files", "--only", "bytes", "--only", "lowering", "--junit", junit, "--markdown", summary
    summary.write_text("Before.\n")
    found = as_json(verify(bundle_copy, *options, "--json"))
    cases = ElementTree.parse(junit).getroot().findall("testsuite/testcase")
    assert len(cases) == len(found.measures) + 1
    assert [case.get("name") for case in cases if case.find("failure") is not None] == ["files_wrong"]
    assert [case.get("name") for case in cases if case.find("skipped") is not None] == ["lowering"]
    text = summary.read_text()
    assert text.startswith("Before.\n### ❌ tiny-int4: 1 gate failed") and "config.json missing" in text
    assert "skipped lowering" in text


def test_summary_takes_nothing_for_markup(bundle_copy: Path) -> None:
    evil = "a|b <script>\n# **bold**"
    rewrite(bundle_copy, lambda manifest: {"source": manifest.source.model_copy(update={"name": evil})})
    verification = read_manifest(bundle_copy).verification
    assert verification
    assert r"a\|b \<script\> # \*\*bold\*\*" in summarize(verification, bundle_copy)


@pytest.mark.parametrize("option", ["--junit", "--markdown"])
def test_a_file_that_cannot_be_written(bundle: Path, tmp_path: Path, option: str) -> None:
    result = verify(bundle, "--only", "files", option, tmp_path / "absent" / "file")
    assert result.exit_code == 2 and "choose another" in result.stderr and result.stderr.count("\n") == 1


class Scripted(Timed):
    """Whose rounds take what a test says."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.rounds = 0
        self._seconds = seconds

    def prefill(self, inputs: ModelInputs, tokens: Sequence[int]) -> Seconds:
        self.rounds += 1
        return Seconds(self._seconds(self.rounds), 1.0)


@pytest.mark.parametrize(
    "seconds, found, rounds",
    [
        (lambda number: 1.2, 1.2, 1 + baseline.ROUNDS),  # within the margin
        (lambda number: 1.1 if number > 12 else 2, 1.1, 13),  # other work ran at first
        (lambda number: 1.5, 1.5, 1 + baseline.MOST),  # is slower, however long one looks
    ],
    ids=["as fast", "disturbed", "slower"],
)
def test_a_race_goes_on_while_the_new_bundle_seems_slower(
    seconds: Callable[[int], float], found: float, rounds: int
) -> None:
    old, new = Scripted(lambda number: 1.0), Scripted(seconds)
    fastest = baseline.race([old, new], ModelInputs(np.arange(4)), 0.25)
    assert (fastest[0][0], fastest[1][0], new.rounds) == (1.0, found, rounds)
