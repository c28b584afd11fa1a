"""Gates of engines that round to int8: what the same arithmetic in torch costs passes, and nothing else does."""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.checks import goldens, lowering, preprocessing, rounding, runner
from runtime.checks.probes import Readings
from runtime.engines import ENGINES
from runtime.gates import GATES, Gates, override
from runtime.goldens import Golden
from runtime.job import Job
from runtime.manifest import Measure, Verification
from runtime.metrics import GreedyMatch
from runtime.sessions import past
from runtime.sessions.genai import GenaiSession
from runtime.verify import make_job
from tests.test_verify import rewire_two_weights

ENGINE = ENGINES["onnx"][0]
(COREML,) = ENGINES["coreml"]
WIDENED = ("kl_mean", "kl_fp16", "top_1", "flips")  # by what torch does
STRICT = GATES | {name: replace(GATES[name], bound=1e-9) for name in (goldens.RMS, goldens.KL)}


def job_of(bundle: Path, quantized: Path | None, gates: Gates = GATES) -> Job:
    job = make_job(bundle, None, None, None, gates, lambda text: None)
    job.quantized = quantized
    job.goldens = [golden for golden in job.goldens if golden.modality == "text"]
    return job


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table whose bounds int8 cannot hold."""
    monkeypatch.setattr(goldens, "GATES", STRICT)


def found(job: Job, name: str) -> Measure:
    """Of plain onnxruntime."""
    return next(measure for measure in goldens.run(job) if (measure.name, measure.engine) == (name, ENGINE.name))


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", [goldens.RMS, goldens.KL])
def test_torch_is_asked_where_the_table_does_not_hold(bundle: Path, quantized_checkpoint: Path, name: str) -> None:
    measure = found(job_of(bundle, quantized_checkpoint, STRICT), name)
    assert measure.passed and measure.bound and measure.bound > 1e-9 and "in torch" in measure.note
    assert measure.value > 1e-9, "control: the table's does not hold"


@pytest.mark.usefixtures("strict")
def test_what_torch_does_not_do_still_fails(bundle_copy: Path, quantized_checkpoint: Path) -> None:
    rewire_two_weights(bundle_copy)
    assert not found(job_of(bundle_copy, quantized_checkpoint, STRICT), goldens.RMS).passed


@pytest.mark.usefixtures("strict")
def test_a_bundle_alone_is_held_to_what_its_export_found(bundle: Path) -> None:
    recorded = [Measure(check="goldens", engine=ENGINE.name, modality="text", name=goldens.RMS, value=0, bound=0.02,
                        at_least=False, passed=True, note="in torch 0.013")]  # fmt: skip

    def measure(measures: list[Measure]) -> Measure:
        job = job_of(bundle, None, STRICT)
        verification = Verification(ran=[], skipped={}, reference="whole", measures=measures, passed=True)
        job.manifest = job.manifest.model_copy(update={"verification": verification})
        return found(job, goldens.RMS)

    assert measure(recorded).bound == 0.02 and measure(recorded).passed
    assert not measure([]).passed, "control: nothing is recorded"
    assert not measure([recorded[0].model_copy(update={"note": ""})]).passed, "somebody has set it, for that export"


def test_tokens_that_the_reference_does_not_write_excuse_nothing(bundle: Path, quantized_checkpoint: Path) -> None:
    """The last token is fed to nobody, so all logits are as they were."""

    def greedy(job: Job) -> Measure:
        return found(job, goldens.GREEDY)

    job = job_of(bundle, quantized_checkpoint)
    assert greedy(job).passed, "control: as they were recorded"
    job.goldens = [replace(golden, tokens=[*golden.tokens[:-1], golden.tokens[-1] + 1]) for golden in job.goldens]
    assert not greedy(job).passed and "another model's" in greedy(job).note


def test_other_odds_of_the_same_tokens_fail_alone(bundle: Path) -> None:
    """The second is a little likelier than was recorded: a small part of the logits, and none flips."""

    def likelier(golden: Golden) -> Golden:
        logits = golden.top_logits.copy()
        logits[:, 1] -= 0.4
        return replace(golden, top_logits=logits)

    job = job_of(bundle, None)
    assert all(measure.passed for measure in goldens.run(job)), "control: as they were recorded"
    job.goldens = [likelier(golden) for golden in job.goldens]
    assert {measure.name for measure in goldens.run(job) if not measure.passed} == {goldens.KL}


def test_an_input_without_a_golden_is_missed(bundle: Path) -> None:
    job = job_of(bundle, None)

    def missing() -> Measure:
        return next(measure for measure in goldens.run(job) if measure.name == "golden_missing")

    assert missing().passed
    kept = [entry for entry in job.manifest.goldens if entry.modality != "audio"]
    job.manifest = job.manifest.model_copy(update={"goldens": kept})
    assert not missing().passed and missing().note == "audio"


@pytest.mark.parametrize("match", [runner._match, preprocessing._match])
def test_a_text_must_end_where_the_golden_ends(bundle: Path, match: Callable[..., GreedyMatch]) -> None:
    job = job_of(bundle, None)
    end = job.manifest.tokens.eos[0]
    assert match(job, [30, end], [30, end], [9, 9]).equal
    assert not match(job, [30, end], [30, end, 31], [9, 9]).equal
    assert match(job, [30, 31], [30, 31, 32], [9, 9]).equal, "control: this golden was cut, not ended"
    assert match(job, [30, end], [30], [9, 9]).equal == (match is runner._match), "it may keep the end to itself"


def test_a_bound_that_somebody_set_holds_as_it_is(bundle: Path, quantized_checkpoint: Path) -> None:
    measure = found(job_of(bundle, quantized_checkpoint, override(GATES, ["golden_rms=1e-9"])), goldens.RMS)
    assert measure.bound == 1e-9 and not measure.passed


def readings(flipped: int) -> Readings:
    """With another first token at so many positions of 100."""
    logits = np.zeros((100, 8), np.float32)
    logits[:, 0] = 1
    logits[:flipped, 1] = 2
    return Readings("text", np.arange(100), logits)


@pytest.mark.parametrize(("in_torch", "engine", "passes"), [(0, 0, True), (0, 1, False), (3, 4, True), (3, 40, False)])
def test_flips_are_counted_beside_those_of_torch(bundle: Path, in_torch: int, engine: int, passes: bool) -> None:
    count, gate, _ = lowering._flips(job_of(bundle, None), readings(0), readings(engine), readings(in_torch))
    assert count == engine and gate.holds(count) == passes


@pytest.mark.parametrize(
    ("moved", "engine", "passes"), [(0.9, 1, False), (1.1, 1, True), (1.1, 4, True), (1.1, 5, False)]
)
def test_torch_may_move_other_gaps_as_far(bundle: Path, moved: float, engine: int, passes: bool) -> None:
    """It flips no token, but takes the gap at another position, of 2, that near to nothing; the engine's are of 1."""

    def with_last(flipped: int, last: float) -> Readings:
        found = readings(flipped)
        found.logits[-1, 0] = last
        return found

    plain, in_torch, found = with_last(0, 2), with_last(0, 2 - moved), with_last(engine, 2)
    count, gate, _ = lowering._flips(job_of(bundle, None), plain, found, in_torch)
    assert count == engine and gate.holds(count) == passes


def test_an_fp16_run_that_overflows_excuses_nothing(bundle: Path) -> None:
    """transformers' own of a trained Gemma 3, beside packages that flip eight tokens."""
    job = job_of(bundle, None)
    found = shipped(job, 8, replace(readings(0), logits=np.full((100, 8), np.nan, np.float32)))
    assert "kl_fp16" not in found and "overflows" in job.skipped["coreml-evaluator beside fp16 in torch"]
    assert not any(found[name].passed for name in ("kl_mean", "top_1", "flips"))
    excused = shipped(job_of(bundle, None), 8, readings(8))
    assert all(excused[name].passed for name in WIDENED), "control: it flips them"


def shipped(job: Job, flipped: int, in_torch: Readings) -> dict[str, Measure]:
    """Of an engine of Core ML that flips so many tokens."""
    measures = lowering._shipped(job, COREML, readings(0), readings(flipped), in_torch)
    return {measure.name: measure for measure in measures}


def test_an_engine_far_worse_than_torch_is_not_excused(bundle: Path) -> None:
    """By bounds that are wider than the table's, which one like torch holds."""
    like, worse = (shipped(job_of(bundle, None), flipped, readings(3)) for flipped in (3, 40))
    assert all(like[name].passed for name in WIDENED) and not any(worse[name].passed for name in WIDENED)
    for name in ("kl_mean", "top_1", "flips"):
        bounds = like[name].bound, worse[name].bound
        assert all(bound is not None and bound != GATES[name].bound for bound in bounds), name


def test_a_float_twin_of_core_ml_that_is_off_fails_both_gates(bundle: Path) -> None:
    def twin(flipped: int) -> dict[str, Measure]:
        measures = lowering._twin(job_of(bundle, None), COREML, readings(0), readings(flipped))
        return {measure.name: measure for measure in measures}

    for name in ("twin_rms", "twin_kl"):
        assert twin(0)[name].passed, "control: the same"
        assert not twin(8)[name].passed and twin(8)[name].bound == GATES[f"{name}_coreml"].bound


def with_other_tokens(job: Job) -> Job:
    job.goldens = [replace(golden, tokens=[token + 1 for token in golden.tokens]) for golden in job.goldens]
    return job


def test_the_runner_may_write_what_the_session_writes(executorch_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden's tokens are not the program's, as int8 may have it; a runner that writes others is still caught."""
    job = with_other_tokens(job_of(executorch_bundle, None))
    (measure,) = runner.run(job)
    assert measure.passed and "differs at 0; as does the session" in measure.note
    generate = runner.StockRunner.generate

    def other(self: Any, *arguments: Any) -> list[int]:
        return [token + 2 for token in generate(self, *arguments)]

    monkeypatch.setattr(runner.StockRunner, "generate", other)
    assert not next(runner.run(job)).passed


def test_own_processing_may_write_what_the_session_writes(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = with_other_tokens(job_of(bundle, None))

    def own_greedy() -> Measure:
        return next(measure for measure in preprocessing.run(job) if measure.name == "own_greedy")

    assert own_greedy().passed
    generate = GenaiSession.generate
    monkeypatch.setattr(GenaiSession, "generate", lambda *given, **options: [
        token + 2 for token in generate(*given, **options)])  # fmt: skip
    assert not own_greedy().passed, "control: other processing, other tokens"


@pytest.fixture
def flipped(bundle: Path, quantized_checkpoint: Path) -> Job:
    """Under a bound that no fp32 holds, as if every row held a flipped rounding."""
    return job_of(bundle, quantized_checkpoint, GATES | {"row_median": replace(GATES["row_median"], bound=1e-12)})


def medians(job: Job) -> list[Measure]:
    return [measure for measure in rounding.run(job) if measure.name == "row_median"]


def test_fp64_says_how_far_rows_may_be_off(flipped: Job) -> None:
    for measure in medians(flipped):
        assert measure.passed and measure.bound and 1e-12 < measure.bound < 1e-5 and "fp32 moves" in measure.note
        assert measure.value > 1e-12, "control: the table's bound does not hold"
    assert not flipped.skipped


def test_control_int8_fails_where_torch_rounds_in_other_blocks(flipped: Job) -> None:
    blocks = flipped.blocks
    flipped.blocks = lambda *given: dict.fromkeys(blocks(*given), None)  # type: ignore[method-assign]
    found = medians(flipped)
    assert found and not any(measure.passed for measure in found) and not flipped.skipped


def test_rows_that_fp32_moves_as_far_as_int8_decide_nothing(flipped: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "in_double", lambda job, engine, folder: job.reference)
    assert not medians(flipped)
    assert all("like any other" in reason for reason in flipped.skipped.values()) and len(flipped.skipped) == 2


def test_an_engine_further_off_than_that_fails_all_the_same(flipped: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "in_double", lambda job, engine, folder: job.reference)
    read = rounding._read
    monkeypatch.setattr(rounding, "_read", lambda session, pairs: 2 * read(session, pairs))
    found = medians(flipped)
    assert found and not any(measure.passed for measure in found) and not flipped.skipped


# Of int8 keys and values


@pytest.fixture
def rounded_cache(bundle: Path, quantized_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Torch rounds keys and values, by coarse steps, and the engines do not."""
    monkeypatch.setattr(Job, "kv_scales", dict.fromkeys(range(12), (1.0, 1.0)))
    return job_of(bundle, quantized_checkpoint)


def test_rows_of_a_cache_that_is_not_rounded_as_in_torch_fail(
    rounded_cache: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> list[Measure]:
        return [measure for measure in rounding.run(rounded_cache) if measure.name == "row_twentieth"]

    found = rows()
    assert found and not any(measure.passed for measure in found) and not rounded_cache.skipped
    monkeypatch.setattr(past, "to_int8_steps", lambda x, scale: x)
    assert all(measure.passed for measure in rows()), "control: torch does not round them either"


def test_the_cost_and_the_twin_of_such_a_cache_fail(rounded_cache: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def first() -> list[Measure]:
        """What comes before the artifact as it ships."""
        return list(islice(lowering.run(rounded_cache), 2))

    cost, twin = found = first()
    assert not any(measure.passed for measure in found)
    assert (cost.name, twin.name, twin.bound) == ("cache_kl", "twin_rms", GATES["twin_rms_int8_cache"].bound)
    monkeypatch.setattr(past, "to_int8_steps", lambda x, scale: x)
    assert all(measure.passed for measure in first()), "control: torch does not round them either"
