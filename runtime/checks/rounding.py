"""Is an engine's int8 arithmetic the one we think it is?

Two tokens at a time, so that a value that falls on the other side of a rounding spoils its own row alone: in a long
sequence the cache would carry it into every row after it. Most rows then agree to the last bits of fp32. Where a
deep model's do not, an engine is held to how far torch's fp32 is from its fp64; where that is as far as rounding moves
anything, no arithmetic can be told from another, and the check says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime import metrics
from runtime.engines import Engine
from runtime.job import Job
from runtime.manifest import Measure
from runtime.references import Reference
from runtime.sessions.base import ModelInputs, Session

PAIRS = 100
SLACK = 3  # by which rows may be further off than fp32 moves them in torch: 1.8 times in the embedded model


@dataclass
class _InTorch:
    """An engine's arithmetic over all pairs; others may share it."""

    job: Job
    engine: Engine
    folder: Path
    pairs: Sequence[NDArray[np.int64]]

    def _ask(self, reference: Reference) -> NDArray[np.float32]:
        return reference.read([ModelInputs(pair) for pair in self.pairs], [[1]] * len(self.pairs))

    @cached_property
    def answers(self) -> NDArray[np.float32]:
        """Logits after each pair, [pairs, vocabulary]."""
        return self._ask(self.job.in_torch(self.engine, self.folder))

    @cached_property
    def moved_by_fp32(self) -> NDArray[np.float64]:
        """How far each row is from the same in fp64, [pairs]."""
        return metrics.row_rms(self._ask(self.job.in_double(self.engine, self.folder)), self.answers)

    @cached_property
    def moved_by_int8(self) -> NDArray[np.float64]:
        """How far each row is from one of which nothing is rounded, [pairs]."""
        return metrics.row_rms(self._ask(self.job.reference), self.answers)


def run(job: Job) -> Iterator[Measure]:
    """Of each engine that rounds activations to int8, against the same arithmetic in torch."""
    pairs = list(islice(_pairs(job), PAIRS))
    known: dict[str, _InTorch] = {}
    for engine, folder in job.engines():
        if engine.rounds is None:
            continue
        job.status(f"{engine.name}: int8 arithmetic")
        in_torch = known.setdefault(repr(job.blocks(engine, folder)), _InTorch(job, engine, folder, pairs))
        rows = metrics.row_rms(in_torch.answers, _read(engine.open(folder), pairs))
        flipped = rows > job.gates["row_median"].bound
        note = f"{flipped.sum()} of {len(rows)} rows with a flipped rounding"
        yield from _typical_row(job, engine, in_torch, rows, note)
        yield job.measure("rounding", "rows_flipped", float(flipped.mean()), engine=engine.name)


def _typical_row(
    job: Job, engine: Engine, in_torch: _InTorch, rows: NDArray[np.float64], note: str
) -> Iterator[Measure]:
    """Nothing where torch could not tell the arithmetic from none."""
    name, share = ("row_twentieth", 0.05) if job.kv_scales else ("row_median", 0.5)  # caches round as well
    value, gate = float(np.quantile(rows, share)), job.gates[name]
    if not gate.holds(value):
        fp32, int8 = (float(np.quantile(by, share)) for by in (in_torch.moved_by_fp32, in_torch.moved_by_int8))
        note += f", in torch fp32 moves rows by {fp32:.1e}, int8 by {int8:.1e}"
        if SLACK * fp32 > gate.bound:
            gate = replace(gate, bound=SLACK * fp32)
            if gate.bound >= int8 and gate.holds(value):
                job.skipped[f"{engine.name}'s int8 arithmetic"] = f"it is like any other here: {value:.1e}, {note}"
                return
    yield job.measure("rounding", name, value, gate, engine=engine.name, note=note)


def _pairs(job: Job) -> Iterator[NDArray[np.int64]]:
    """Neighbours in the goldens' prompts, each pair once."""
    seen = set[tuple[int, ...]]()
    for golden in job.goldens:
        ids = golden.inputs.input_ids[~np.isin(golden.inputs.input_ids, [job.media.image or -1, job.media.audio or -1])]
        for pair in ids[: len(ids) // 2 * 2].reshape(-1, 2):
            if tuple(pair) not in seen:
                seen.add(tuple(pair))
                yield pair


def _read(session: Session, pairs: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Logits after each pair, [pairs, vocabulary]."""
    logits = []
    for pair in pairs:
        session.reset()
        logits.append(session.prefill(ModelInputs(pair)))
    return np.stack(logits)
