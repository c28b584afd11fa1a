"""What benchmarks measure with: memory of this process, speeds of the disk and of memory, processes of their own."""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from runtime.bench.memory import read_memory

CHUNK = 2**24  # bytes
BUFFER = 2**31  # bytes that memory is read from, many times what caches hold
SUMS = 5  # of that buffer; the fastest counts


# Memory


def memory() -> dict[str, float]:
    """Of this process, in MiB: what no file backs, what files back, and the most of both since `forget_peak`."""
    found = read_memory(os.getpid())
    return {f"{kind}_mib": count / 2**20 for kind, count in vars(found).items()}


def forget_peak() -> None:
    """The peak of `memory` begins anew (proc_pid_clear_refs(5)); Linux only."""
    Path("/proc/self/clear_refs").write_text("5")


def anonymous(process: psutil.Process) -> int:
    """Bytes of it that no file backs."""
    found = process.memory_info()
    return int(found.rss - found.shared)


@contextmanager
def anonymous_peak() -> Iterator[list[int]]:
    """Bytes by which anonymous memory (which no file backs) has grown at most, in a list of one."""
    process, done = psutil.Process(), threading.Event()
    before, peak = anonymous(process), [0]

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], anonymous(process) - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def bandwidth(threads: int) -> float:
    """Bytes per second that so many threads read from memory."""
    import torch

    torch.set_num_threads(threads)
    buffer, fastest = torch.ones(BUFFER // 4), float("inf")
    for _ in range(SUMS):
        begun = time.perf_counter()
        buffer.sum()
        fastest = min(fastest, time.perf_counter() - begun)
    return buffer.nbytes / fastest


# The disk


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def sync(folder: Path) -> None:
    """Returns when the files are on the disk."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as opened:
            os.fsync(opened.fileno())


def forget(folder: Path) -> None:
    """Drops the files from the page cache, so that they are read from the disk next."""
    sync(folder)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_speed(folder: Path, most: float = float("inf")) -> float:
    """Bytes per second, one file after another, until `most` bytes are read."""
    forget(folder)
    begun, total = time.perf_counter(), 0
    for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
        with path.open("rb", buffering=0) as opened:
            while total < most and (chunk := opened.read(CHUNK)):
                total += len(chunk)
    return total / (time.perf_counter() - begun)


def write_speed(path: Path, count: int) -> float:
    """Bytes per second, until they are on the disk."""
    data, begun = os.urandom(CHUNK), time.perf_counter()
    try:
        with path.open("wb", buffering=0) as opened:
            for _ in range(max(1, count // CHUNK)):
                opened.write(data)
            os.fsync(opened.fileno())
        return path.stat().st_size / (time.perf_counter() - begun)
    finally:
        path.unlink(missing_ok=True)


# Processes


def by_layers(module: str, about: str | None, measure: Callable[[int], Any], counts: list[int]) -> None:
    """The command line of a benchmark: a line of JSON for each number of layers, measured in a process of its own."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=counts)
    parser.add_argument("--here", action="store_true", help="measure the first count in this process")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.layers[0])))
        return
    for count in arguments.layers:
        print(json.dumps(in_child(module, "--here", "--layers", str(count))), flush=True)


def in_child(module: str, *arguments: str) -> Any:
    """What the module, run in a process of its own, prints in its last line as JSON."""
    command = [sys.executable, "-m", module, *arguments]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return json.loads(lines[-1])
