"""How long quantizing takes beside what the disk alone needs, and in how much memory.

    python -m benchmarks.quantize [--layers 2] [--recipe int4] [--folder build/benchmark]

Real widths of Gemma 4 12B, random weights, as many layers as asked for. Compare figures of one run only.
"""

import json
import resource
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import anonymous_peak, forget, read_speed, size, write_speed
from benchmarks.random_checkpoint import write_checkpoint
from export.quantize import quantize
from export.recipes import find_recipe
from export.sources import open_source


def main(
    layers: Annotated[int, typer.Option(help="Of the 12B's 48.")] = 2,
    recipe: Annotated[str, typer.Option()] = "int4",
    folder: Annotated[Path, typer.Option(help="Emptied first and last.")] = Path("build/benchmark"),
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    source, out = folder / "source", folder / "quantized"
    read = write_checkpoint(source, layers)
    disk_read = read_speed(source)
    forget(source)
    with anonymous_peak() as peak:
        begun = time.perf_counter()
        record = quantize(open_source(source), find_recipe(recipe), "random", out)
        seconds = time.perf_counter() - begun
    written = size(out)
    disk_write = write_speed(folder / "zeros", written)
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


if __name__ == "__main__":
    typer.run(main)
