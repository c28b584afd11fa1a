"""Do the real engines, on the shipped files, say what the quantized reference said?"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from runtime.engines import Engine
from runtime.goldens import Comparison, Golden, compare
from runtime.job import Job
from runtime.manifest import Measure


def run(job: Job) -> Iterator[Measure]:
    """Greedy tokens and top logits of each golden, by engine and modality, with the golden's inputs and tokens."""
    for engine, folder in job.engines():
        for modality, results in _compare(job, engine, folder).items():
            yield from _measures(job, engine, modality, results)


def _compare(job: Job, engine: Engine, folder: Path) -> dict[str, list[tuple[Golden, Comparison]]]:
    """By modality. The engine is closed when it returns: two of a large model do not fit the memory."""
    session = engine.open(folder)
    found: dict[str, list[tuple[Golden, Comparison]]] = {}
    for golden in job.goldens:
        job.status(f"{engine.name}: golden {golden.name}")
        result = compare(golden, session, job.manifest.tokens.suppress, job.gates["near_tie"].bound)
        found.setdefault(golden.modality, []).append((golden, result))
    return found


def _measures(
    job: Job, engine: Engine, modality: str, results: Sequence[tuple[Golden, Comparison]]
) -> Iterator[Measure]:
    def measure(name: str, value: float, note: str = "") -> Measure:
        return job.measure("goldens", name, value, engine=engine.name, modality=modality, note=note)

    wrong = sum(not result.greedy.equal for _, result in results)
    kl = np.concatenate([result.kl for _, result in results])
    yield measure("golden_greedy", wrong, "; ".join(filter(None, (_explain(*pair) for pair in results))))
    yield measure("golden_kl_mean", float(kl.mean()), f"{len(kl)} steps, largest {kl.max():.1e}")
    yield measure("golden_rms", max(result.rms for _, result in results))


def _explain(golden: Golden, result: Comparison) -> str:
    """Where greedy tokens differ."""
    errors = f"{golden.name} differs at {_list(result.greedy.errors)}" if result.greedy.errors else ""
    ties = f"{golden.name} near tie at {_list(result.greedy.near_ties)}" if result.greedy.near_ties else ""
    return "; ".join(filter(None, (errors, ties)))


def _list(positions: Sequence[int]) -> str:
    return ", ".join(map(str, positions))
