"""A bench for people: tables, and what should be known beside them."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runtime.bench.result import Bench, EngineSpeed, Figure, Machine, Ratio, Resident
from runtime.units import size

THOUSAND = 1000  # from here on figures are whole, without an exponent
BUSY = 0.5  # processes beside the bench that make its figures doubtful


def show(bench: Bench, console: Console) -> None:
    """Everything but the JSON line."""
    work, machine = bench.work, escape(describe(bench.machine))
    console.print(f"[bold]{escape(bench.bundle)}[/] ({bench.recipe}, {bench.target}) on {machine}")
    console.print(f"{work.repeats} rounds after {work.warmup} to warm up, loaded {work.loads} times, "
                  f"threads: {work.threads or 'as the engine chooses'}; median ± (p90 - p10) / median")  # fmt: skip
    for table in (loads(bench.engines), speeds(bench.engines), media(bench.engines), compared(bench.ratios)):
        if table.row_count:
            console.print()
            console.print(table)
    console.print()
    for note in notes(bench):
        console.print(escape(note), style="yellow", highlight=False)


def describe(machine: Machine) -> str:
    return f"{machine.name}, {machine.cores} cores, {machine.threads} threads, {size(machine.memory)}, {machine.system}"


def notes(bench: Bench) -> list[str]:
    """What a reader should know before believing a figure."""
    said = [f"skipped {name}: {reason}" for name, reason in bench.skipped.items()]
    said += [f"{engine.engine}: {note}" for engine in bench.engines for note in engine.notes] + bench.notes
    if bench.machine.load is not None and bench.machine.load > BUSY:
        said.append(f"other work was running ({bench.machine.load:.1f} processes in the minute before): "
                    "engines can be compared with each other, but no figure is the machine's best")  # fmt: skip
    return [*said, "Energy was not measured."]


def loads(engines: Sequence[EngineSpeed]) -> Table:
    """Loading and memory. What files back can be dropped when memory is short, anonymous memory cannot."""
    when = ("imported", "loaded", "steady", "peak")
    table = Table("engine", "load s", "then first token s", "threads", *when, box=None, pad_edge=False,
                  title="Loading, and memory as anonymous + file-backed", title_justify="left")  # fmt: skip
    for engine in engines:
        memory = engine.memory
        cells = [resident(getattr(memory, name)) for name in when[:-1]] + [peak(memory.peak)]
        table.add_row(
            engine.engine, figure(engine.load), figure(engine.first_token), str(engine.threads or "-"), *cells
        )
    return table


def speeds(engines: Sequence[EngineSpeed]) -> Table:
    table = Table("positions", "engine", "prefill tokens/s", "first token s", "decode tokens/s",
                  box=None, pad_edge=False, title="Text", title_justify="left")  # fmt: skip
    for rows in zip(*(engine.text for engine in engines), strict=True):
        for engine, row in zip(engines, rows, strict=True):
            length = str(row.length) if engine is engines[0] else ""
            table.add_row(length, engine.engine, figure(row.prefill), figure(row.first_token), figure(row.decode))
    return table


def media(engines: Sequence[EngineSpeed]) -> Table:
    table = Table("", "engine", "soft tokens", "encoder s", "whole prompt s", "positions",
                  box=None, pad_edge=False, title="Images and clips", title_justify="left")  # fmt: skip
    for engine in engines:
        for row in engine.media:
            table.add_row(row.modality, engine.engine, str(row.positions), figure(row.encode), figure(row.prefill),
                          str(row.prompt))  # fmt: skip
    return table


def compared(ratios: Sequence[Ratio]) -> Table:
    table = Table("positions", "engine", "prefill", "decode", box=None, pad_edge=False, title_justify="left",
                  title=f"Times as fast as {ratios[0].peer if ratios else 'the peer'}")  # fmt: skip
    for ratio in ratios:
        decode = "-" if ratio.decode is None else f"{ratio.decode:.2f}"
        table.add_row(str(ratio.length), ratio.engine, f"{ratio.prefill:.2f}", decode)
    return table


def figure(value: Figure | None) -> str:
    """Spread is left out where it was measured once."""
    if value is None:
        return "-"
    median = f"{value.median:,.0f}" if value.median >= THOUSAND else f"{value.median:.3g}"
    return f"{median} ±{value.spread:.0%}" if len(value.values) > 1 else median


def resident(memory: Resident | None) -> str:
    if memory is None or memory.anonymous is None or memory.file is None:
        return "-"
    return f"{size(memory.anonymous)} + {size(memory.file)}"


def peak(memory: Resident) -> str:
    return "-" if memory.total is None else f"{size(memory.total)} ({resident(memory)})"
