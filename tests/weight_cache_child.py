"""Loads models with and without a weight cache, in a process that has not loaded ExecuTorch before.

    python -m tests.weight_cache_child OUT.npz FOLDER[:CACHE] ...

Writes the logits of one prompt by the arguments' places, and at the end prints which files the process has mapped.
"""

import sys
from pathlib import Path

import numpy as np

from runtime.sessions.base import ModelInputs
from runtime.sessions.executorch import ExecutorchSession

PROMPT = ModelInputs(np.arange(3, 23, dtype=np.int64))


def main(out: str, *places: str) -> None:
    sessions = [ExecutorchSession(Path(folder), 1, Path(cache) if cache else None)
                for folder, _, cache in (place.partition(":") for place in places)]  # fmt: skip
    np.savez(out, *[session.prefill(PROMPT) for session in sessions])
    print(Path("/proc/self/maps").read_text())


if __name__ == "__main__":
    main(*sys.argv[1:])
