"""How long RECIPE=auto measures sensitivity at the 12B's real widths before it calibrates, and in how much memory.

    python -m benchmarks.sensitivity [--pieces 2] [--folder build/benchmark]

A sliding and a full layer of random weights with a small vocabulary, as in `benchmarks.calibration`. What each layer
takes by itself, what each pass through a layer takes, what rounding the head and what each variant takes in it are told
apart, and carried over to 48 layers, the pieces that exports read and the whole vocabulary. Seconds are the
processor's: set OMP_NUM_THREADS=1.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer

from benchmarks.calibration import LAYERS, MEASURED, VOCABULARY, timed
from benchmarks.measuring import anonymous_peak
from benchmarks.random_checkpoint import write_checkpoint
from export.calibration import sensitivity
from export.calibration.corpus import LENGTH, PIECES
from export.calibration.prepare import PROBE_LENGTH, PROBE_TEXTS
from runtime.sessions.base import ModelInputs
from runtime.sessions.streamed import HEAD_ROWS

WHOLE_VOCABULARY = 262144
PASSES = 10  # of probes, and of texts, through a layer: as it is, with each of seven linears and two branches rounded


def main(
    pieces: Annotated[int, typer.Option(help=f"Of {LENGTH} tokens.")] = 2,
    folder: Annotated[Path, typer.Option(help="Emptied first and last.")] = Path("build/benchmark"),
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    write_checkpoint(folder / "source", MEASURED, {"text_config": {"vocab_size": VOCABULARY}})
    rng = np.random.default_rng(0)
    sequences = [ModelInputs(rng.integers(20, VOCABULARY, LENGTH)) for _ in range(pieces)]
    probes = [ModelInputs(rng.integers(20, VOCABULARY, PROBE_LENGTH)) for _ in range(PROBE_TEXTS)]
    imported = psutil.Process().memory_info()
    names = "_compensated", "_errors", "_round", "_log_probabilities"
    rounding, errors, layers, logits = map(_record, names)
    positions: list[int] = []
    passes = _record("_after", lambda _, __, flows: positions.append(sum(flow.hidden.shape[1] for flow in flows)))
    with anonymous_peak() as peak:
        begun = time.process_time()
        sensitivity.measure_sensitivity(folder / "source", sequences, probes)
        seconds = time.process_time() - begun
    at_the_head = -(-VOCABULARY // HEAD_ROWS)  # the last calls of `_compensated`, and one of `_errors`
    rounded = (sum(rounding[:-at_the_head]) + sum(errors[:-1])) / MEASURED
    reading = sum(layers) / MEASURED - rounded
    per_position, grown = sum(passes) / sum(positions), WHOLE_VOCABULARY / VOCABULARY
    probed, learnt = PROBE_TEXTS * PROBE_LENGTH, sensitivity.FITTED * LENGTH
    layer = rounded + reading / pieces * PIECES + PASSES * per_position * (probed + learnt)
    variants = LAYERS**2 * per_position * probed
    head = (sum(rounding[-at_the_head:]) + (2 * LAYERS + 3) * sum(logits) / (2 * MEASURED + 3)) * grown
    print(json.dumps({
        "pieces": pieces, "measured_seconds": round(seconds),
        "pass_seconds": round(per_position * probed, 2), "learning_seconds": round(PASSES * per_position * learnt, 1),
        "layer_rounding_seconds": round(rounded, 1),
        f"layer_reading_seconds_{PIECES}_pieces": round(reading / pieces * PIECES, 1),
        "head_hours": round(head / 3600, 1), "variants_hours": round(variants / 3600, 1),
        f"hours_{LAYERS}_layers": round((layer * LAYERS + variants + head) / 3600, 1),
        "anonymous_before": imported.rss - imported.shared, "anonymous_growth": peak[0],
    }))  # fmt: skip
    shutil.rmtree(folder)


def _record(name: str, beside: Callable[..., object] = lambda *_: None) -> list[float]:
    """Seconds of each call of a function of `sensitivity`, from now on; `beside` is called with its arguments."""
    seconds: list[float] = []
    work = timed(getattr(sensitivity, name), seconds)

    def recorded(*arguments: Any) -> Any:
        beside(*arguments)
        return work(*arguments)

    setattr(sensitivity, name, recorded)
    return seconds


if __name__ == "__main__":
    typer.run(main)
