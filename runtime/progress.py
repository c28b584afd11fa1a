"""Progress of long work, on stderr: a line that changes on a terminal, a new one now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

Status = Callable[[str], None]  # told what goes on
Advance = Callable[[int], None]  # by so many bytes
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
def progress(title: str, total: int) -> Iterator[Advance]:
    """A bar over `total` bytes: how far, how fast, how long still."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with _log(console) as log:
            yield _logged(log, title, total)
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
