"""Lowering error: the shipped artifact, run by its real engines, against the quantized reference.

Engines are fed fixed tokens: a prompt at once, then in uneven steps, then a continuation token by token, as a phone
would decode it. The reference scores the same sequence in one go.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime import metrics
from runtime.checks.probes import Answers, Probe, Readings, by_modality, cut, ends, is_read, make_probes
from runtime.engines import Engine
from runtime.gates import Gate
from runtime.job import Job
from runtime.manifest import Measure
from runtime.scratch import scratch
from runtime.sessions.base import Logits, Session

LONG = "long"  # the modality whose probe is longer than a sliding window
SLACK = 1.1  # by which an engine's KL may exceed that of the same arithmetic in torch: roundings fall otherwise


def run(job: Job) -> Iterator[Measure]:
    """Of each engine, and of the float twins of those that have one, by modality."""
    probes = sorted(make_probes(job), key=lambda probe: probe.modality)
    answers = Answers(job, probes)
    if job.kv_scales:
        yield from _cache_cost(job, answers)
    for engine, folder in job.engines():
        wanted, exact = answers.plain(engine), answers.unrounded(engine)
        if found := _run_twin(job, engine, folder, probes):
            for pair in zip(exact, found, strict=True):
                yield from _twin(job, engine, *pair)
        in_torch = answers.rounded(engine, folder)
        job.status(f"{engine.name}: as shipped")
        found = _read(engine.open(folder), probes, job, engine)
        for triple in zip(wanted, found, in_torch, strict=True):
            yield from _shipped(job, engine, *triple)


def _run_twin(job: Job, engine: Engine, folder: Path, probes: Sequence[Probe]) -> list[Readings]:
    """Nothing of an engine that has no float twin. It is closed before what ships is opened."""
    twin = job.open_twin(engine, folder)
    job.status(f"{engine.name}: float twin")
    return _read(twin, probes, job, engine) if twin else []


def _read(session: Session, probes: Sequence[Probe], job: Job, engine: Engine) -> list[Readings]:
    """The engine's logits."""
    read = [ends(probe, job.media, engine.splits_media) for probe in probes]
    logits: NDArray[np.float32] | None = None
    for row, found in enumerate(found for probe in probes for found in _feed(session, probe, job, engine)):
        logits = scratch(sum(map(len, read)), len(found)) if logits is None else logits
        logits[row] = found
    assert logits is not None
    return by_modality(probes, logits, read)


def _feed(session: Session, probe: Probe, job: Job, engine: Engine) -> Iterator[Logits]:
    """After the prompt at once, after each of its steps and after each token that continues it."""
    session.reset()
    yield session.prefill(probe.prompt)
    session.reset()
    for step in cut(probe, job.media, engine.splits_media):
        logits = session.prefill(step)
        if is_read(step, job.media):
            yield logits
    for token in probe.continuation:
        yield session.decode(int(token))


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
    if overflows := not np.isfinite(torch_kl).all():  # then it excuses nothing
        in_torch, torch_kl = want, np.zeros_like(torch_kl)
        job.skipped[f"{engine.name} beside {_torch(engine)}"] = "that overflows: the table's bounds hold as they are"
    beside = [
        f"{_torch(engine)} {'overflows' if overflows else f'{some:.1e}'}" for some in (torch_kl.mean(), torch_kl.max())
    ]
    gate = replace(job.gates["kl_mean"], bound=max(job.gates["kl_mean"].bound, SLACK * float(torch_kl.mean())))
    yield measure("kl_mean", float(kl.mean()), gate, f"{len(kl)} positions, {beside[0]}")
    if engine.half and not overflows:
        yield measure("kl_fp16", float(kl.mean() / torch_kl.mean()))
    largest = measure("kl_max", float(kl.max()), note=beside[1])
    yield largest.model_copy(update={"series": _series(got, kl)}) if got.modality == LONG else largest
    yield measure("rms", metrics.relative_rms(want.logits, got.logits))
    yield measure("largest_difference", metrics.largest_difference(want.logits, got.logits), note="logits")
    yield measure("top_1", metrics.top_1(want.logits, got.logits), *_top_1_gate(job, engine, want, got, in_torch))
    yield measure("flips", *_flips(job, want, got, in_torch))


def _series(got: Readings, kl: NDArray[np.float64]) -> list[tuple[int, float]]:
    """The largest at each position, in their order."""
    found: dict[int, float] = {}
    for position, value in zip(got.positions.tolist(), kl.tolist(), strict=True):
        found[position] = max(found.get(position, 0.0), float(f"{value:.3g}"))
    return sorted(found.items())


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


def _flips(job: Job, want: Readings, got: Readings, in_torch: Readings) -> tuple[float, Gate, str]:
    """Positions with another first token although the reference's top two are well apart.

    As many as the same arithmetic in torch has, give or take two standard errors; where that has none, such few still
    where it moves a gap between two such tokens by as much as theirs, be it at other positions.
    """
    gaps, near_tie = metrics.top_gaps(want.logits), job.gates["near_tie"].bound
    right = want.logits.argmax(-1).tolist()
    match, reached = (metrics.compare_forced(right, readings.logits.argmax(-1).tolist(), gaps.tolist(), near_tie)
                      for readings in (got, in_torch))  # fmt: skip
    count, unavoidable, gate = len(match.errors), len(reached.errors), job.gates["flips"]
    reach = float(metrics.gap_shifts(want.logits, in_torch.logits).max())
    if unavoidable or (match.errors and gaps[list(match.errors)].max() <= reach):
        gate = replace(gate, bound=max(gate.bound, unavoidable + 2 * (count + unavoidable) ** 0.5))
    ties = f"{len(match.near_ties)} near ties" if match.near_ties else ""
    torch = f"in torch {unavoidable}, which moves gaps by up to {reach:.2f}" if unavoidable or match.errors else ""
    return count, gate, "; ".join(filter(None, (ties, torch)))


def _cache_cost(job: Job, answers: Answers) -> Iterator[Measure]:
    """What int8 keys and values cost by themselves."""
    engine, _ = next(job.engines())
    for want, got in zip(answers.exact_cache(engine), answers.plain(engine), strict=True):
        kl, kind = metrics.kl_divergence(want.logits, got.logits), want.modality
        yield job.measure("lowering", "cache_kl", float(kl.mean()), modality=kind, note=f"largest {kl.max():.1e}")
