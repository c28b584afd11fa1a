"""How long RECIPE=auto measures sensitivity at the 12B's real widths before it calibrates, and in how much memory.

    python -m benchmarks.sensitivity [--pieces 2] [--folder build/benchmark]

A sliding and a full layer of random weights with a small vocabulary, as in `benchmarks.calibration`. What each layer
takes by itself, what each pass of a variant through a layer takes and what each variant takes in the head are told
apart, and carried over to 48 layers, the pieces that exports read and the whole vocabulary. Seconds are the
processor's: set OMP_NUM_THREADS=1.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Annotated

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

WHOLE_VOCABULARY = 262144
LINEARS = 7  # of a layer; a pass for each, one without and one with all of them rounded


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
    names = "_after", "_losses", "_losses_in", "_log_probabilities"
    passes, losses, moments, head = map(_record, names)
    with anonymous_peak() as peak:
        begun = time.process_time()
        sensitivity.measure_sensitivity(folder / "source", sequences, probes)
        seconds = time.process_time() - begun
    one_pass, rounding = float(np.mean(passes)), sum(losses[:-1]) / MEASURED  # the last ones are the embedding's
    reading = (sum(moments) - sum(losses[:-1])) / MEASURED / pieces * PIECES
    layer = rounding + reading + (LINEARS + 2) * one_pass
    variants = LAYERS * (LAYERS + 1) / 2 * one_pass
    logits = (LAYERS + 2) * sum(head) / (MEASURED + 2) * WHOLE_VOCABULARY / VOCABULARY
    print(json.dumps({
        "pieces": pieces, "measured_seconds": round(seconds), "pass_seconds": round(one_pass, 2),
        "layer_rounding_seconds": round(rounding, 1), f"layer_reading_seconds_{PIECES}_pieces": round(reading, 1),
        "logits_hours": round(logits / 3600, 1), "variants_hours": round(variants / 3600, 1),
        f"hours_{LAYERS}_layers": round((layer * LAYERS + variants + logits) / 3600, 1),
        "anonymous_before": imported.rss - imported.shared, "anonymous_growth": peak[0],
    }))  # fmt: skip
    shutil.rmtree(folder)


def _record(name: str) -> list[float]:
    """Seconds of each call of a function of `sensitivity`, from now on."""
    seconds: list[float] = []
    setattr(sensitivity, name, timed(getattr(sensitivity, name), seconds))
    return seconds


if __name__ == "__main__":
    typer.run(main)
