"""What a long context costs the ONNX artifact of a bundle: memory of its process, and time per token.

    python -m benchmarks.full_size.contexts dist/android/source-int4/onnx [--threads 2]

To prefill 32768 positions of the 12B takes hours on two cores, so keys and values are written, not computed: noise in
every slot that so many positions reach. One more position is decoded behind them and makes the engine read all of it.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.decoders import FIRST
from benchmarks.measuring import forget_peak, memory
from runtime import heap
from runtime.sessions.onnx import CONFIG, OnnxSession

LENGTHS = 16, 1024, 8192, 32768  # positions; growth counts from an engine without caches
STEPS = 5  # decoded at each length


def main(
    folder: Annotated[Path, typer.Argument(help="`onnx` of a bundle.")],
    threads: Annotated[int, typer.Option()] = 2,
) -> None:
    """Prints a line of JSON for each length."""
    with tempfile.TemporaryDirectory(dir=folder.resolve().parents[1]) as name:
        session = OnnxSession(with_context(folder, Path(name), LENGTHS[-1] + STEPS), threads)
        session.decode(FIRST)  # what is allocated once
        session._caches.clear()
        heap.trim()
        before = memory()
        session.reset()
        for length in LENGTHS:
            fill(session, length)
            forget_peak()
            seconds = statistics.median(decode(session) for _ in range(STEPS))
            now = memory()
            print(json.dumps({"positions": length, "token_seconds": round(seconds, 3),
                              "anonymous_growth_mib": round(now["anonymous_mib"] - before["anonymous_mib"]),
                              "peak_mib": round(now["peak_mib"])}), flush=True)  # fmt: skip


def with_context(folder: Path, to: Path, context: int) -> Path:
    """The same files, for so many positions."""
    for path in folder.iterdir():
        os.link(path, to / path.name)  # a symbolic one would be refused
    config = json.loads((folder / CONFIG).read_text())
    config["search"]["max_length"] = context
    (to / CONFIG).unlink()
    (to / CONFIG).write_text(json.dumps(config))
    return to


def fill(session: OnnxSession, length: int) -> None:
    """As if so many positions had been read."""
    noise = np.random.default_rng(0)
    for cache in session._caches.values():
        slots = cache.numpy()[:, :, :length]  # no copy: on a CPU it is the engine's own memory
        slots[...] = 0.1 * noise.standard_normal(slots.shape, np.float32)
    session.position = length


def decode(session: OnnxSession) -> float:
    """Seconds."""
    begun = time.perf_counter()
    logits = session.decode(FIRST)
    assert np.isfinite(logits).all(), "logits that are no numbers"
    return time.perf_counter() - begun


if __name__ == "__main__":
    typer.run(main)
