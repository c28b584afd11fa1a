"""Is an engine's int8 arithmetic the one we think it is?

Two tokens at a time, so that a value that falls on the other side of a rounding spoils its own row alone: in a long
sequence the cache would carry it into every row after it. Most rows then agree to the last bits of fp32. In a model so
deep and wide that every row holds one, an engine is held to what fp32 alone moves in torch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from runtime import metrics
from runtime.job import Job
from runtime.manifest import Measure
from runtime.sessions.base import ModelInputs, Session

PAIRS = 100
SLACK = 3  # by which rows may be further off than torch's in fp32 are from fp64: 1.8 times in the embedded model


def run(job: Job) -> Iterator[Measure]:
    """Of each engine that rounds activations to int8, against the same arithmetic in torch."""
    pairs, bound = list(islice(_pairs(job), PAIRS)), job.gates["row_median"].bound
    answers: dict[str, NDArray[np.float32]] = {}  # by arithmetic: some engines share it
    for engine, folder in job.engines():
        if engine.rounds is None:
            continue
        job.status(f"{engine.name}: int8 arithmetic")
        arithmetic = repr(job.blocks(engine, folder))
        sequences, wanted = [ModelInputs(pair) for pair in pairs], [[1]] * len(pairs)
        if arithmetic not in answers:
            answers[arithmetic] = job.in_torch(engine, folder).read(sequences, wanted)
        rows = metrics.row_rms(answers[arithmetic], _read(engine.open(folder), pairs))
        note = f"{(rows > bound).sum()} of {len(rows)} rows with a flipped rounding"
        name, share = ("row_twentieth", 0.05) if job.kv_scales else ("row_median", 0.5)  # caches round as well
        value, gate = float(np.quantile(rows, share)), job.gates[name]
        if not gate.holds(value):
            exact = job.in_double(engine, folder).read(sequences, wanted)
            reached = float(np.quantile(metrics.row_rms(exact, answers[arithmetic]), share))
            gate = replace(gate, bound=max(gate.bound, SLACK * reached))
            note += f", in torch fp32 is {reached:.1e} from fp64"
        yield job.measure("rounding", name, value, gate, engine=engine.name, note=note)
        yield job.measure("rounding", "rows_flipped", float((rows > bound).mean()), engine=engine.name)


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
