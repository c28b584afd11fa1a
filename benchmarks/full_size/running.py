"""An artifact run by its engine: load time, time per token beside what memory alone needs, and memory taken."""

import statistics
import time
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoders import FIRST, import_engine, open_session, read_per_token
from benchmarks.measuring import bandwidth, forget, forget_peak, memory
from export.checkpoint import QuantizationRecord
from runtime.manifest import read_manifest
from runtime.sessions.base import ModelInputs, Session

PROMPT, STEPS = 16, 8  # tokens prefilled and decoded


def run(
    name: str, folder: Path, record: QuantizationRecord, threads: int, cache: Path | None = None
) -> dict[str, Any]:  # fmt: skip
    """Loads an artifact, prefills text and an image, decodes; what is said means nothing, weights being random."""
    import_engine(folder, cache)
    speed = bandwidth(threads)
    forget(folder)
    forget_peak()
    before, begun = memory(), time.perf_counter()
    session = open_session(folder, threads, cache)
    load, loaded = time.perf_counter() - begun, memory()
    prefill = _timed(session, ModelInputs(np.arange(PROMPT, dtype=np.int64) + FIRST))
    picture = image(folder)
    image_seconds = _timed(session, picture)
    steps = [_timed(session, ModelInputs(np.array([FIRST + step], np.int64))) for step in range(STEPS)]
    steady, token = memory(), statistics.median(steps)
    floor = read_per_token(record) / speed
    return {
        "name": name, "threads": threads, "load_seconds": load,
        "prefill_seconds": prefill, "image_tokens": len(picture.input_ids), "image_seconds": image_seconds,
        "token_seconds": token, "bandwidth": speed, "ratio_to_memory": token / floor,
        **_grown("loaded", before, loaded), **_grown("steady", before, steady), "peak_mib": steady["peak_mib"],
    }  # fmt: skip


def _timed(session: Session, inputs: ModelInputs) -> float:
    begun = time.perf_counter()
    logits = session.prefill(inputs)
    assert np.isfinite(logits).all(), "logits that are no numbers"
    return time.perf_counter() - begun


def _grown(when: str, before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """MiB beyond what the imports took."""
    return {f"{when}_{kind}": now[kind] - before[kind] for kind in ("anonymous_mib", "file_mib")}


def image(folder: Path) -> ModelInputs:
    """Noise, nearly as large as the bundle's images get, between its markers."""
    manifest = read_manifest(folder.parent)
    tokens, side = manifest.tokens, isqrt(manifest.limits.image_soft_tokens or 0)
    assert tokens.begin_image and tokens.image and tokens.end_image
    ids = np.array([tokens.begin_image, *[tokens.image] * side**2, tokens.end_image], np.int64)
    values = np.random.default_rng(0).random((1, side**2, 3 * 48**2), np.float32)
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(1, -1, 2)
    return ModelInputs(ids, values, cells)
