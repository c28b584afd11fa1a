"""How long quantizing takes beside what the disk alone needs, and in how much memory.

    python -m benchmarks.quantize [--layers 2] [--recipe int4] [--folder build/benchmark]

Real widths of Gemma 4 12B, random weights, as many layers as asked for. Compare figures of one run only.
"""

import json
import os
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.random_checkpoint import write_checkpoint
from export.quantize import quantize
from export.recipes import find_recipe
from export.sources import open_source

CHUNK = 2**24  # bytes


def main(
    layers: Annotated[int, typer.Option(help="Of the 12B's 48.")] = 2,
    recipe: Annotated[str, typer.Option()] = "int4",
    folder: Annotated[Path, typer.Option(help="Emptied first and last.")] = Path("build/benchmark"),
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    source, out = folder / "source", folder / "quantized"
    read = write_checkpoint(source, layers)
    disk_read = _read_speed(source)
    _forget(source)
    with anonymous_peak() as peak:
        begun = time.perf_counter()
        record = quantize(open_source(source), find_recipe(recipe), "random", out)
        seconds = time.perf_counter() - begun
    written = sum(path.stat().st_size for path in out.iterdir())
    disk_write = _write_speed(folder / "zeros", written)
    disk = read / disk_read + written / disk_write
    facts = {
        "layers": layers, "recipe": recipe, "bytes_read": read, "bytes_written": written, "seconds": round(seconds, 1),
        "disk_seconds": round(disk, 1), "ratio_to_disk": round(seconds / disk, 2),
        "weights_per_second": round(read / 2 / seconds), "anonymous_growth": peak[0],
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rounding_error": round(record.error, 4), "plain_rounding_error": round(record.plain_error, 4),
    }  # fmt: skip
    shutil.rmtree(folder)
    _show(facts)


def _show(facts: dict[str, object]) -> None:
    table = Table("quantize", "", box=None)
    for name, value in facts.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table)
    print(json.dumps(facts))


@contextmanager
def anonymous_peak() -> Iterator[list[int]]:
    """Bytes by which anonymous memory (which no file backs) has grown at most, in a list of one."""
    process, done = psutil.Process(), threading.Event()

    def anonymous() -> int:
        found = process.memory_info()
        return int(found.rss - found.shared)

    before, peak = anonymous(), [0]

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield peak
    done.set()
    watcher.join()


def _forget(folder: Path) -> None:
    """Drops the files from the page cache, so that they are read from the disk."""
    for path in folder.iterdir():
        with path.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read_speed(folder: Path) -> float:
    """Bytes per second, one file after another."""
    _forget(folder)
    begun, total = time.perf_counter(), 0
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as opened:
            while chunk := opened.read(CHUNK):
                total += len(chunk)
    return total / (time.perf_counter() - begun)


def _write_speed(path: Path, count: int) -> float:
    """Bytes per second, until they are on the disk."""
    data, begun = os.urandom(CHUNK), time.perf_counter()
    with path.open("wb", buffering=0) as opened:
        for _ in range(max(1, count // CHUNK)):
            opened.write(data)
        os.fsync(opened.fileno())
    speed = path.stat().st_size / (time.perf_counter() - begun)
    path.unlink()
    return speed


if __name__ == "__main__":
    typer.run(main)
