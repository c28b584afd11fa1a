"""Progress of long work, on stderr: a line that changes on a terminal, a new one now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

Status = Callable[[str], None]  # told what goes on
Advance = Callable[[int], None]  # by so many bytes
LOG_SECONDS = 30  # between two lines of a log: a CI system ends what stays silent, and nobody reads thousands


class Log:
    """Lines for a log, each with the time since the beginning."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.begun = self.last = time.monotonic()

    def __call__(self, text: str) -> None:
        """Says it, unless it has just said something."""
        now = time.monotonic()
        if now - self.last >= LOG_SECONDS:
            self.last = now
            self.console.print(f"{timedelta(seconds=round(now - self.begun))} {escape(text)}", soft_wrap=True)


@contextmanager
def status() -> Iterator[Status]:
    """What is going on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Log(console)
        return
    with console.status("opening") as line:
        yield lambda text: line.update(escape(text))


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """A bar over `total` bytes: how far, how fast, how long still."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _logged(Log(console), title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def _logged(log: Log, title: str, total: int) -> Advance:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        speed = done / max(time.monotonic() - log.begun, 1e-9)  # bytes/s
        left = timedelta(seconds=round((total - done) / speed)) if speed else "unknown"
        log(f"{title}: {decimal(done)} of {decimal(total)}, {decimal(int(speed))}/s, {left} left")

    return advance
