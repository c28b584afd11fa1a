"""Lowering error: the shipped artifact, run by its real engines, against the quantized reference.

Engines are fed fixed tokens: a prompt at once, then in uneven steps, then a continuation token by token, as a phone
would decode it. The reference scores the same sequence in one go.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime import metrics
from runtime.engines import Engine
from runtime.gates import Gate
from runtime.job import Job
from runtime.manifest import Measure
from runtime.prompt import append, split
from runtime.sessions.base import ModelInputs, Session
from runtime.sessions.reference import ReferenceSession

TEXT_POSITIONS = 400  # at least so many are decoded
CONTINUATION = 64  # positions decoded after the prompts of other modalities
STEPS = (5, 1, 24, 3)  # sizes of prefills, again and again
SLACK = 1.1  # by which an engine's KL may exceed that of the same arithmetic in torch: roundings fall otherwise


@dataclass(frozen=True)
class Probe:
    """A sequence to be compared."""

    modality: str
    prompt: ModelInputs
    continuation: NDArray[np.int64]

    @property
    def sequence(self) -> ModelInputs:
        return append(self.prompt, self.continuation)


@dataclass(frozen=True)
class Readings:
    """Logits [n, vocabulary] at some positions of the probes of a modality."""

    modality: str
    logits: NDArray[np.float32]


def run(job: Job) -> Iterator[Measure]:
    """Of each engine, and of the float twins of those that have one, by modality."""
    probes = sorted(make_probes(job), key=lambda probe: probe.modality)
    reference = job.reference.variant(kv_scales=job.kv_scales)
    if job.kv_scales:
        yield from _cache_cost(job, probes, reference)
    for engine, folder in job.engines():
        wanted = _score(reference, probes, job, engine)
        if twin := job.open_twin(engine, folder):
            job.status(f"{engine.name}: float twin")
            found = _run(twin, probes, job, engine)
            exact = _score(reference.variant(half_cache=True), probes, job, engine) if engine.half else wanted
            for pair in zip(exact, found, strict=True):
                yield from _twin(job, engine, *pair)
        job.status(f"{engine.name}: as shipped")
        found = _run(engine.open(folder), probes, job, engine)
        in_torch = _score(_same_arithmetic(job, engine, folder), probes, job, engine)
        for triple in zip(wanted, found, in_torch, strict=True):
            yield from _shipped(job, engine, *triple)


def _same_arithmetic(job: Job, engine: Engine, folder: Path) -> ReferenceSession:
    """The quantized reference, rounding as the engine does: what no kernel could avoid."""
    if engine.half:
        return job.half_reference
    return job.reference.variant(job.blocks(engine, folder), job.kv_scales)


# Probes


def make_probes(job: Job) -> Iterator[Probe]:
    """Held-out text in pieces that fit the window; goldens of other modalities, continued with it."""
    text, bos = _text(job), job.manifest.tokens.bos
    size = min(job.manifest.limits.sliding_window, TEXT_POSITIONS + STEPS[0]) - 1
    for start in range(0, -(-TEXT_POSITIONS // (size - STEPS[0])) * size, size):
        piece = np.array([bos, *np.take(text, range(start, start + size), mode="wrap")])
        yield Probe("text", ModelInputs(piece[: STEPS[0]]), piece[STEPS[0] :])
    for golden in (golden for golden in job.goldens if golden.modality != "text"):
        continuation = np.array([*golden.tokens, *np.take(text, range(CONTINUATION), mode="wrap")])
        yield Probe(golden.modality, golden.inputs, continuation[:CONTINUATION])


def _text(job: Job) -> NDArray[np.int64]:
    """Tokens of running text: held-out if at hand, else the long golden's."""
    if job.held_out and job.held_out.texts:
        return np.concatenate([job.prompter.encode(text) for text in job.held_out.texts])
    return next(golden.inputs.input_ids[1:] for golden in job.goldens if golden.modality == "long")


def _steps(probe: Probe, job: Job, engine: Engine) -> list[ModelInputs]:
    """The prompt in uneven steps; whole for an engine that wants all media first."""
    has_media = len(probe.prompt.arrays()) > 1
    return [probe.prompt] if has_media and not engine.splits_media else split(probe.prompt, cycle(STEPS), job.media)


def _ends(probe: Probe, job: Job, engine: Engine) -> NDArray[np.int64]:
    """Positions whose logits `_read` returns."""
    ends = np.cumsum([len(step.input_ids) for step in _steps(probe, job, engine)])
    return np.concatenate([ends[-1:], ends, ends[-1] + np.arange(1, len(probe.continuation) + 1)]) - 1


def _read(session: Session, probe: Probe, job: Job, engine: Engine) -> NDArray[np.float32]:
    """Logits of the prompt prefilled at once, after each of its steps, and after each token decoded."""
    session.reset()
    logits = [session.prefill(probe.prompt)]
    session.reset()
    logits += [session.prefill(step) for step in _steps(probe, job, engine)]
    logits += [session.decode(int(token)) for token in probe.continuation]
    return np.stack(logits)


def _run(session: Session, probes: Sequence[Probe], job: Job, engine: Engine) -> list[Readings]:
    return _by_modality(probes, [_read(session, probe, job, engine) for probe in probes])


def _score(reference: ReferenceSession, probes: Sequence[Probe], job: Job, engine: Engine) -> list[Readings]:
    """The reference's logits at the same positions."""
    logits = []
    for probe in probes:
        reference.reset()
        logits.append(reference.score(probe.sequence)[_ends(probe, job, engine)])
    return _by_modality(probes, logits)


def _by_modality(probes: Sequence[Probe], logits: Sequence[NDArray[np.float32]]) -> list[Readings]:
    """Probes come sorted."""
    pairs = groupby(zip(probes, logits, strict=True), lambda pair: pair[0].modality)
    return [Readings(modality, np.concatenate([part for _, part in group])) for modality, group in pairs]


# Measures


def _twin(job: Job, engine: Engine, want: Readings, got: Readings) -> Iterator[Measure]:
    def measure(name: str, value: float, gate: str, note: str) -> Measure:
        return job.measure("lowering", name, value, job.gates[gate], engine.name, want.modality, note)

    gate = "twin_rms_coreml" if engine.half else "twin_rms_int8_cache" if job.kv_scales else "twin_rms"
    note = f"largest difference {metrics.largest_difference(want.logits, got.logits):.1e}"
    yield measure("twin_rms", metrics.relative_rms(want.logits, got.logits), gate, note)
    if engine.half:
        kl = metrics.kl_divergence(want.logits, got.logits)
        yield measure("twin_kl", float(kl.mean()), "twin_kl_coreml", f"largest {kl.max():.1e}")


def _shipped(job: Job, engine: Engine, want: Readings, got: Readings, in_torch: Readings) -> Iterator[Measure]:
    """`in_torch` is of the same arithmetic in torch: what no kernel could avoid."""

    def measure(name: str, value: float, gate: Gate | None = None, note: str = "") -> Measure:
        return job.measure("lowering", name, value, gate, engine.name, want.modality, note)

    kl, torch_kl = (metrics.kl_divergence(want.logits, logits) for logits in (got.logits, in_torch.logits))
    gate = replace(job.gates["kl_mean"], bound=max(job.gates["kl_mean"].bound, SLACK * float(torch_kl.mean())))
    yield measure("kl_mean", float(kl.mean()), gate, f"{len(kl)} positions, {_torch(engine)} {torch_kl.mean():.1e}")
    if engine.half:
        yield measure("kl_fp16", float(kl.mean() / torch_kl.mean()))
    yield measure("kl_max", float(kl.max()), note=f"{_torch(engine)} {torch_kl.max():.1e}")
    yield measure("rms", metrics.relative_rms(want.logits, got.logits))
    yield measure("largest_difference", metrics.largest_difference(want.logits, got.logits), note="logits")
    yield measure("top_1", metrics.top_1(want.logits, got.logits), *_top_1_gate(job, engine, want, got, in_torch))
    yield measure("flips", *_flips(job, want, got))


def _torch(engine: Engine) -> str:
    return "fp16 in torch" if engine.half else "int8 in torch" if engine.rounds else "fp32 in torch"


def _top_1_gate(job: Job, engine: Engine, want: Readings, got: Readings, in_torch: Readings) -> tuple[Gate, str]:
    """The table's; where that fails, what the same arithmetic in torch reaches.

    Flips are rare events: two counts k and t are as good as equal while k - t <= 2 sqrt(k + t), two standard errors.
    """
    found, reached = (metrics.top_1(want.logits, readings.logits) for readings in (got, in_torch))
    gate, positions = job.gates["top_1"], len(want.logits)
    if not gate.holds(found):
        flips = positions * (1 - found), positions * (1 - reached)
        gate = replace(gate, bound=min(gate.bound, 1 - (flips[1] + 2 * sum(flips) ** 0.5) / positions))
    return gate, f"{_torch(engine)} {reached:.4f}"


def _flips(job: Job, want: Readings, got: Readings) -> tuple[float, Gate, str]:
    """Positions with another first token although the reference's top two are well apart."""
    gaps, near_tie = metrics.top_gaps(want.logits), job.gates["near_tie"].bound
    right, chosen = (logits.argmax(-1).tolist() for logits in (want.logits, got.logits))
    match = metrics.compare_forced(right, chosen, gaps.tolist(), near_tie)
    return len(match.errors), job.gates["flips"], f"{len(match.near_ties)} near ties" if match.near_ties else ""


def _cache_cost(job: Job, probes: Sequence[Probe], rounding: ReferenceSession) -> Iterator[Measure]:
    """What int8 keys and values cost by themselves."""
    engine, _ = next(job.engines())
    for want, got in zip(*(_score(session, probes, job, engine) for session in (job.reference, rounding)), strict=True):
        kl, kind = metrics.kl_divergence(want.logits, got.logits), want.modality
        yield job.measure("lowering", "cache_kl", float(kl.mean()), modality=kind, note=f"largest {kl.max():.1e}")
