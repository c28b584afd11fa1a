"""Do the real engines, on the shipped files, say what the quantized reference said?

Roundings to int8 cost a large model more than a small one. Where a gate does not hold, the question is therefore
whether the same arithmetic in torch, which no kernel could avoid, is as far from the reference. The bound that comes of
it goes into the bundle with the verification, for machines that have nothing else. Goldens that the reference itself
does not repeat are another model's, and excuse nothing; neither does a bound that somebody set for an export.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.engines import Engine
from runtime.gates import GATES, Gate
from runtime.goldens import Comparison, Golden, compare, judge
from runtime.job import Job
from runtime.manifest import Measure
from runtime.prompt import append
from runtime.references import Reference

GREEDY, KL, RMS = NAMES = "golden_greedy", "golden_kl_mean", "golden_rms"
SLACK = 1.5  # by which errors may exceed those in torch: roundings fall otherwise, and positions are few
IN_TORCH = "in torch"  # of a bound that came of it
REPEATED = 3e-3  # relative rms of logits of the same weights in fp32: 2.7e-4 over the 12B's most delicate clip


def run(job: Job) -> Iterator[Measure]:
    """Greedy tokens and top logits of each golden, by engine and modality, with the golden's inputs and tokens."""
    yield _missing(job)
    for engine, folder in job.engines():
        for modality, results in _compare(job, engine, folder).items():
            yield from _measures(job, engine, folder, modality, results)


def _missing(job: Job) -> Measure:
    """What goes into the model and no golden shows: its encoder would not even be opened."""
    wanted = {"text": True, "image": job.media.image is not None, "audio": job.media.audio is not None}
    there = {golden.modality for golden in job.manifest.goldens}
    missing = [modality for modality, takes in wanted.items() if takes and modality not in there]
    return job.measure("goldens", "golden_missing", len(missing), note=", ".join(missing))


def _compare(job: Job, engine: Engine, folder: Path) -> dict[str, dict[str, Comparison]]:
    """By modality and golden. The engine is closed when it returns: two of a large model do not fit the memory."""
    session = engine.open(folder)
    found: dict[str, dict[str, Comparison]] = {}
    for golden in job.goldens:
        job.status(f"{engine.name}: golden {golden.name}")
        result = compare(golden, session, job.manifest.tokens.suppress, job.gates["near_tie"].bound)
        found.setdefault(golden.modality, {})[golden.name] = result
    return found


def _measures(
    job: Job, engine: Engine, folder: Path, modality: str, results: Mapping[str, Comparison]
) -> Iterator[Measure]:
    values = _values(list(results.values()))
    gates, about = _gates(job, engine, folder, modality, values)
    kl = np.concatenate([result.kl for result in results.values()])
    notes = {
        GREEDY: "; ".join(filter(None, (_explain(*pair) for pair in results.items()))),
        KL: f"{len(kl)} steps, largest {kl.max():.1e}",
        RMS: "",
    }
    for name in NAMES:
        note = "; ".join(filter(None, (notes[name], about.get(name))))
        yield job.measure("goldens", name, values[name], gates[name], engine.name, modality, note)


def _values(results: Sequence[Comparison]) -> dict[str, float]:
    return {
        GREEDY: sum(not result.greedy.equal for result in results),
        KL: float(np.concatenate([result.kl for result in results]).mean()),
        RMS: max(result.rms for result in results),
    }


def _gates(
    job: Job, engine: Engine, folder: Path, modality: str, values: Mapping[str, float]
) -> tuple[dict[str, Gate], dict[str, str]]:
    """The table's, or wider ones for those that do not hold, unless somebody has set them; and why."""
    gates = {name: job.gates[name] for name in NAMES}
    failing = [name for name in NAMES if not gates[name].holds(values[name]) and gates[name] == GATES[name]]
    if not failing:
        return gates, {}
    if job.has_reference:
        job.status(f"{engine.name}: goldens of {modality} in torch")
        wider, about = _reached(job, engine, folder, modality, failing)
    else:
        wider, about = _recorded(job, engine, modality), dict.fromkeys(failing, "bound of the export")
    bounds = {name: max(gates[name].bound, wider.get(name, 0)) for name in failing}
    return gates | {name: replace(gates[name], bound=bound) for name, bound in bounds.items()}, about


def _reached(
    job: Job, engine: Engine, folder: Path, modality: str, failing: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Bounds from the quantized reference rounded as the engine does, if the goldens are its own; and why."""
    some = [golden for golden in job.goldens if golden.modality == modality]
    own = _values(_in_torch(job, job.reference, some))
    if own[GREEDY] or not own[RMS] <= REPEATED:
        about = f"another model's: the quantized checkpoint writes other tokens in {own[GREEDY]}, rms {own[RMS]:.2g}"
        return {}, dict.fromkeys(failing, about)
    reached = _values(_in_torch(job, job.in_torch(engine, folder), some))
    wider = {name: reached[name] * (SLACK if name != GREEDY else 1) for name in failing}
    return wider, {name: f"{IN_TORCH} {reached[name]:.2g}" for name in failing}


def _in_torch(job: Job, reference: Reference, goldens: Sequence[Golden]) -> list[Comparison]:
    sequences = [append(golden.inputs, np.array(golden.tokens[:-1], np.int64)) for golden in goldens]
    positions = [len(golden.inputs.input_ids) - 1 + np.arange(len(golden.tokens)) for golden in goldens]
    logits = reference.read(sequences, positions)
    parts = np.split(logits, np.cumsum([len(some) for some in positions])[:-1])
    suppressed, near_tie = job.manifest.tokens.suppress, job.gates["near_tie"].bound
    return [judge(golden, list(part), suppressed, near_tie) for golden, part in zip(goldens, parts, strict=True)]


def _recorded(job: Job, engine: Engine, modality: str) -> dict[str, float]:
    """Bounds that the export's own verification got from torch."""
    verification = job.manifest.verification
    measures = verification.measures if verification else []
    return {measure.name: measure.bound for measure in measures
            if (measure.check, measure.engine, measure.modality) == ("goldens", engine.name, modality)
            and measure.bound is not None and IN_TORCH in measure.note}  # fmt: skip


def _explain(name: str, result: Comparison) -> str:
    """Where greedy tokens differ."""
    errors = f"{name} differs at {_list(result.greedy.errors)}" if result.greedy.errors else ""
    ties = f"{name} near tie at {_list(result.greedy.near_ties)}" if result.greedy.near_ties else ""
    return "; ".join(filter(None, (errors, ties)))


def _list(positions: Sequence[int]) -> str:
    return ", ".join(map(str, positions))
