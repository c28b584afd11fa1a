"""Speed, load time and memory of an ExecuTorch program beside the ONNX artifact of the same weights, and its peers.

    python -m benchmarks.executorch_speed [--layers 6] [--context 2048] [--threads 1] [--folder build/speed]

Real widths of Gemma 4 12B and random weights, or the embedded model with `--layers 0`; what the folder holds already is
used again. Engines take turns in one process, so compare ratios: each is the median over rounds of what the ONNX
artifact took in the same round. Loads are measured each in a process of its own. Peers: benchmarks/executorch_peers.py.

Logits are told apart to show that nobody computes something else, which only the embedded model can: on random weights
every rounding of an activation to int8 grows from position to position, in any engine.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.decoders import FIRST, build, import_engine, one_round, open_session
from benchmarks.measuring import in_child, memory
from runtime.sessions.base import Logits

MODULE = "benchmarks.executorch_speed"
ENGINES = "onnx", "ours", "sdpa", "stock"
LOADS = {  # name to engine and whether there is a weight cache
    "onnx": ("onnx", False), "ours": ("ours", False), "ours, cache written": ("ours", True),
    "ours, cache read": ("ours", True), "stock": ("stock", False),
}  # fmt: skip
Facts = dict[str, Any]


# Speed


def measure_speed(folder: Path, threads: int, rounds: int) -> Facts:
    """Milliseconds per token by engine, each in every round, and how far its logits are from those of `ours`."""
    sessions = {name: open_session(folder / name, threads) for name in ENGINES}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ENGINES}
    logits: dict[str, Logits] = {}
    for number in range(rounds + 1):
        for name, session in sessions.items():
            prefill, steps, logits[name] = one_round(session)
            if number:  # the first one warms up
                times[name].append((prefill, statistics.median(steps)))
    return {name: summary(times[name], times["onnx"]) | {"apart": apart(logits[name], logits["ours"])}
            for name in ENGINES}  # fmt: skip


def summary(own: list[tuple[float, float]], other: list[tuple[float, float]]) -> Facts:
    """Tokens per second, and how often as fast as the other."""
    facts: Facts = {}
    for index, phase in enumerate(("prefill", "decode")):
        facts[phase] = round(1e3 / statistics.median(taken[index] for taken in own), 2)
        ratios = [theirs[index] / mine[index] for mine, theirs in zip(own, other, strict=True)]
        facts[f"{phase}_ratio"] = round(statistics.median(ratios), 3)
    return facts


def apart(a: Logits, b: Logits) -> float:
    """Relative rms."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# Loading


def measure_load(folder: Path, load: str, threads: int) -> Facts:
    """Of this process: seconds until the first token is decoded, and memory beyond what the imports took."""
    name, cached = LOADS[load]
    cache = folder / "cache" if cached else None
    if load.endswith("written"):
        for file in (folder / "cache").glob("*"):
            file.unlink()
    import_engine(folder / name, cache)
    before, start = memory(), time.perf_counter()
    session = open_session(folder / name, threads, cache)
    opened = time.perf_counter() - start
    session.decode(FIRST)
    after = memory()
    return {"open_s": round(opened, 2), "first_token_s": round(time.perf_counter() - start, 2),
            **{kind: round(after[kind] - before[kind]) for kind in before}}  # fmt: skip


# Reports


def show(title: str, rows: dict[str, Facts]) -> None:
    columns = list(next(iter(rows.values())))
    table = Table("", *columns, title=title)
    for name, facts in rows.items():
        table.add_row(name, *(f"{facts[column]:.3g}" if column == "apart" else str(facts[column])
                              for column in columns))  # fmt: skip
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6, help="of the 12B's 48; 0: the embedded model")
    parser.add_argument("--context", type=int, default=2048, help="positions that are made room for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build/speed"))
    parser.add_argument("--only", help="speed, or a load's name: measure it in this process")
    given = parser.parse_args()
    folder = given.folder / (f"12b-{given.layers}" if given.layers else "tiny")
    if given.only:
        found = (measure_speed(folder, given.threads, given.rounds) if given.only == "speed"
                 else measure_load(folder, given.only, given.threads))  # fmt: skip
        print(json.dumps(found))
        return
    build(folder, given.layers, given.context, ENGINES)
    arguments = [f"--{name}={getattr(given, name)}" for name in ("layers", "threads", "rounds", "folder")]
    speed = in_child(MODULE, *arguments, "--only=speed")
    loads = {name: in_child(MODULE, *arguments, f"--only={name}") for name in LOADS}
    show("Tokens per second, and how often as fast as ONNX", speed)
    show("Loading, beyond imports", loads)
    print(json.dumps({"layers": given.layers, "threads": given.threads, "speed": speed, "loads": loads}))


if __name__ == "__main__":
    main()
