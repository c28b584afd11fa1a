"""What a bench is doing, and how long the rest takes."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.progress import Status, status

Told = Callable[[str], None]  # what is done next
Expect = Callable[[int], Told]  # from how many steps there will be


def untold(steps: int) -> Told:
    """Nobody wants to know."""
    return lambda text: None


@contextmanager
def progress() -> Iterator[Expect]:
    """What is done next, and how long the rest takes, on stderr; in a log a line now and then."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    if not console.is_terminal:
        with status() as say:
            yield lambda total: _counted(say, total)
        return
    bar = Progress(*columns, console=console, transient=True)
    try:

        def expect(total: int) -> Told:
            bar.start()  # not before something is done: what comes first may be an error
            task = bar.add_task("", total=total)

            def told(text: str) -> None:
                bar.update(task, description=text)
                bar.advance(task)

            return told

        yield expect
    finally:
        if bar.live.is_started:
            bar.stop()


def _counted(say: Status, total: int) -> Told:
    """Says of each step which of all it is."""
    count = itertools.count(1)
    return lambda text: say(f"{text}, {next(count)} of {total}")
