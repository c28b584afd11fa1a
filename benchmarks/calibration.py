"""How long calibration takes at the 12B's real widths, and in how much memory.

    python -m benchmarks.calibration [--pieces 2] [--recipe int4-gptq] [--folder build/benchmark]

A sliding and a full layer of random weights with a small vocabulary, a few pieces of 512 random tokens. What depends on
the tokens (passes, sums of X^T X) and what does not (factors, rounding) is told apart, and carried over to 48 layers
and the pieces that exports calibrate on, without the embedding. Seconds are the processor's: set OMP_NUM_THREADS=1.
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

from benchmarks.measuring import anonymous_peak
from benchmarks.random_checkpoint import write_checkpoint
from export.calibration import streamed
from export.calibration.corpus import LENGTH, PIECES
from export.recipes import PROJECTION, find_recipe
from export.sources import open_source
from runtime.sessions.base import ModelInputs

LAYERS, MEASURED = 48, 2  # of the 12B
VOCABULARY = 8192


def main(
    pieces: Annotated[int, typer.Option(help=f"Of {LENGTH} tokens.")] = 2,
    recipe: Annotated[str, typer.Option()] = "int4-gptq",
    folder: Annotated[Path, typer.Option(help="Emptied first and last.")] = Path("build/benchmark"),
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    write_checkpoint(folder / "source", MEASURED, {"text_config": {"vocab_size": VOCABULARY}})
    source, rng = open_source(folder / "source"), np.random.default_rng(0)
    sequences = [ModelInputs(rng.integers(20, VOCABULARY, LENGTH)) for _ in range(pieces)]
    imported = psutil.Process().memory_info()
    rounding: list[float] = []
    for owner, name in ((streamed, "factorize"), (streamed, "correct"), (streamed._Layer, "_round_linear")):
        setattr(owner, name, timed(getattr(owner, name), rounding))
    with anonymous_peak() as peak:
        begun = time.process_time()
        streamed.calibrate(source, find_recipe(recipe), sequences, folder / "calibrated")
        seconds = time.process_time() - begun
    weights = sum(np.prod(some.shape) for name, some in source.tensors.items() if PROJECTION.search(name))
    fixed, by_piece = sum(rounding), (seconds - sum(rounding)) / pieces
    layer = (fixed + by_piece * PIECES) / MEASURED
    print(json.dumps({
        "recipe": recipe, "pieces": pieces, "weights": int(weights), "rounding_seconds": round(fixed, 1),
        "seconds_by_piece": round(by_piece, 2), f"layer_seconds_{PIECES}_pieces": round(layer),
        "seconds_by_billion_weights": round(layer * MEASURED / weights * 1e9),
        f"hours_{LAYERS}_layers": round(layer * LAYERS / 3600, 1),
        "anonymous_before": imported.rss - imported.shared, "anonymous_growth": peak[0],
    }))  # fmt: skip
    shutil.rmtree(folder)


def timed(work: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The same, which notes the processor's seconds of each call."""

    def measured(*arguments: Any) -> Any:
        begun = time.process_time()
        found = work(*arguments)
        seconds.append(time.process_time() - begun)
        return found

    return measured


if __name__ == "__main__":
    typer.run(main)
