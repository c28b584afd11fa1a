"""The command line of a bench: what was asked for, progress on stderr, tables and one JSON line on stdout."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.bench.alternate import Told
from runtime.bench.llama import PEER
from runtime.bench.local import Expect, bench_here
from runtime.bench.plan import Wanted
from runtime.bench.result import Bench
from runtime.bench.show import show
from runtime.errors import UserError


@dataclass(frozen=True)
class Settings:
    """All but the work."""

    engines: Sequence[str] = ()
    peer: str | None = None
    gguf: Path | None = None  # the peer's model
    out: Path | None = None  # file for the JSON
    json: bool = False  # print the JSON alone


def run(bundle: Path, wanted: Wanted, settings: Settings, console: Console) -> None:
    """Raises:
    UserError: see `bench_here`, or options that do not fit each other.
    """
    _require_peer(settings)
    _require_writable(settings.out)
    with progress() as expect:
        bench = bench_here(bundle, wanted, settings.engines, settings.gguf, expect)
    tell(bench, settings, console)


def tell(bench: Bench, settings: Settings, console: Console) -> None:
    """Tables, unless the JSON is wanted alone; the JSON line, last."""
    line = bench.model_dump_json()
    if settings.out:
        settings.out.write_text(line + "\n")
    if not settings.json:
        show(bench, console)
    print(line)


def _require_peer(settings: Settings) -> None:
    if settings.peer not in (None, PEER):
        raise UserError(f"there is no peer {settings.peer!r}: write --vs {PEER}")
    if bool(settings.peer) != bool(settings.gguf):
        raise UserError(f"the peer and its model go together: write --vs {PEER} --gguf FILE")


def _require_writable(out: Path | None) -> None:
    """Before an hour is spent on what cannot be kept."""
    if out and not out.absolute().parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.absolute().parent} to write to")


@contextmanager
def progress() -> Iterator[Expect]:
    """What is done next, and how long the rest takes, on stderr."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def expect(total: int) -> Told:
            task = bar.add_task("", total=total)

            def told(text: str) -> None:
                bar.update(task, description=text)
                bar.advance(task)

            return told

        yield expect
