"""Figures of a full-size run beside the bars that the project sets itself."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

Facts = Mapping[str, Any]
GIB, FULL = 2**30, 48  # layers of the 12B: bars of time and size are for all of them
SUMMED = "seconds", "cpu_seconds", "read", "written", "disk_seconds"
LOG_WIDTH = 160  # where nothing says how wide lines may be
ANDROID = "android, all of it"  # quantize, and both of its formats with checksums and bytes


@dataclass(frozen=True)
class Bars:
    """At most so much of each."""

    seconds: float | None = None
    ratio_to_disk: float | None = None
    peak_rss: float | None = None  # bytes
    anonymous: float | None = None  # bytes
    artifact: float | None = None  # bytes


BARS = {
    "quantize": Bars(ratio_to_disk=4, anonymous=1.5 * GIB),
    "onnx: lower": Bars(ratio_to_disk=4, anonymous=1.5 * GIB, artifact=7.7e9),
    "executorch: lower": Bars(seconds=15 * 60, peak_rss=5 * GIB, artifact=6.9e9),
    "coreml: lower": Bars(ratio_to_disk=4, anonymous=1.5 * GIB, artifact=7.4e9),
    ANDROID: Bars(seconds=40 * 60, peak_rss=5 * GIB),
}


def rows_of(found: Mapping[str, list[Any]]) -> list[Facts]:
    """All steps but runs, and what they come to for Android."""
    rows = [row | {"artifact": row["written"]} for stage, steps in found.items() for row in steps
            if not stage.startswith("run ")]  # fmt: skip
    parts = [row for row in rows if row["name"].split(":")[0] in ("quantize", "onnx", "executorch")]
    if {"onnx", "executorch"} <= found.keys():
        rows.append(_together(parts))
    return rows


def _together(parts: Iterable[Facts]) -> Facts:
    """One process would do these steps one after another."""
    parts = list(parts)
    sums = {
        key: sum(part[key] for part in parts) for key in ("seconds", "cpu_seconds", "read", "written", "disk_seconds")
    }
    most = {key: max(part[key] for part in parts) for key in ("peak_rss", "anonymous")}
    return {"name": ANDROID, **sums, **most, "ratio_to_disk": sums["seconds"] / sums["disk_seconds"]}


def summarize(found: Mapping[str, list[Any]], layers: int) -> dict[str, Any]:
    """For machines: all that was measured, and what exceeds its bar."""
    rows = rows_of(found)
    missed = [f"{row['name']}: {kind}" for row in rows for kind, bar in _bars(row, layers).items() if row[kind] > bar]
    return {"layers": layers, "weights": "random", "steps": rows, "missed": missed,
            "runs": [steps[0] for stage, steps in found.items() if stage.startswith("run ")]}  # fmt: skip


def _bars(row: Facts, layers: int) -> dict[str, float]:
    """Those that count for so many layers."""
    bars = vars(BARS.get(row["name"], Bars()))
    scaled = () if layers == FULL else ("seconds", "artifact")
    return {kind: bar for kind, bar in bars.items() if bar is not None and kind not in scaled}


def show(found: Mapping[str, list[Any]], layers: int) -> None:
    """For people."""
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    title = f"{layers} layers of the 12B's widths, random weights (bars in brackets)"
    table = Table("step", "wall s", "cpu s", "x disk", "peak RSS GiB", "anonymous GiB", "read GB", "written GB",
                  title=title, box=None)  # fmt: skip
    for row in rows_of(found):
        bars = _bars(row, layers)
        table.add_row(
            row["name"], _cell(row, bars, "seconds", 1, ".0f"), f"{row['cpu_seconds']:.0f}",
            _cell(row, bars, "ratio_to_disk", 1, ".1f"), _cell(row, bars, "peak_rss", GIB, ".2f"),
            _cell(row, bars, "anonymous", GIB, ".2f"), f"{row['read'] / 1e9:.2f}",
            _cell(row, bars, "artifact", 1e9, ".2f"),
        )  # fmt: skip
    console.print(table)
    if runs := [steps[0] for stage, steps in found.items() if stage.startswith("run ")]:
        console.print(_runs_table(runs))


def _cell(row: Facts, bars: Mapping[str, float], kind: str, unit: float, form: str) -> str:
    """A figure, and its bar where it has one."""
    value, bar = row.get(kind, row["written"]), bars.get(kind)
    text = f"{value / unit:{form}}"
    if bar is None:
        return text
    text += f" (<= {bar / unit:g})"
    return f"[bold red]{text}[/]" if value > bar else f"[green]{text}[/]"


def _runs_table(runs: list[Facts]) -> Table:
    table = Table("", "load s", "s / token", "x memory", "prefill s", "image s", "loaded: anon + file",
                  "steady: anon + file", "peak", title="Decoding; MiB of memory beyond imports", box=None)  # fmt: skip
    for row in runs:
        sizes = (f"{row[f'{when}_anonymous_mib']:.0f} + {row[f'{when}_file_mib']:.0f}" for when in ("loaded", "steady"))
        table.add_row(row["name"], f"{row['load_seconds']:.1f}", f"{row['token_seconds']:.3f}",
                      f"{row['ratio_to_memory']:.2f}", f"{row['prefill_seconds']:.1f}", f"{row['image_seconds']:.1f}",
                      *sizes, f"{row['peak_mib']:.0f}")  # fmt: skip
    return table
