"""Progress of long work, on stderr: a line that changes on a terminal, a new one now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

Status = Callable[[str], None]  # told what goes on
Advance = Callable[[int], None]  # by so many bytes, or other units
LOG_SECONDS = 30  # between two lines of a log: a CI system ends what stays silent, and nobody reads thousands


class Log:
    """The newest of many texts, now and then, with the time since the beginning."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.begun = time.monotonic()
        self._newest = ""

    def __call__(self, text: str) -> None:
        self._newest = text

    def speak(self) -> None:
        """One line, of a step that goes on as well as of a new one."""
        if self._newest:
            since = timedelta(seconds=round(time.monotonic() - self.begun))
            self.console.print(f"{since} {escape(self._newest)}", soft_wrap=True)


@contextmanager
def _log(console: Console) -> Iterator[Log]:
    """That speaks every LOG_SECONDS, whether or not anybody says something then: some steps take ten minutes."""
    log, ended = Log(console), Event()

    def run() -> None:
        while not ended.wait(LOG_SECONDS):
            log.speak()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield log
    finally:
        ended.set()
        thread.join()


@contextmanager
def status() -> Iterator[Status]:
    """What is going on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with _log(console) as log:
            yield log
        return
    with console.status("opening") as line:
        yield lambda text: line.update(escape(text))


@contextmanager
def progress(title: str, total: int, unit: str = "") -> Iterator[Advance]:
    """A bar over `total` bytes, or as many of what `unit` names: how far, how fast, how long still."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with _log(console) as log:
            yield _logged(log, title, total, unit)
        return
    amount: tuple[ProgressColumn, ...] = (DownloadColumn(), TransferSpeedColumn())
    if unit:
        amount = MofNCompleteColumn(), TextColumn(unit), TextColumn("{task.fields[rate]}")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task(title, total=total, rate="")

        def advance(count: int) -> None:
            bar.advance(task, count)
            bar.update(task, rate=_rate(bar.tasks[task].speed or 0, unit))

        yield advance


def _logged(log: Log, title: str, total: int, unit: str) -> Advance:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        speed = done / max(time.monotonic() - log.begun, 1e-9)
        left = timedelta(seconds=round((total - done) / speed)) if speed else "unknown"
        amount = f"{done} of {total} {unit}" if unit else f"{decimal(done)} of {decimal(total)}"
        log(f"{title}: {amount}, {_rate(speed, unit)}, {left} left")

    return advance


def _rate(speed: float, unit: str) -> str:
    """Of so much in a second."""
    return f"{60 * speed:.1f}/min" if unit else f"{decimal(int(speed))}/s"
