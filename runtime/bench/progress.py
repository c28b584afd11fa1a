"""What a bench is doing, and how long the rest takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Told = Callable[[str], None]  # what is done next
Expect = Callable[[int], Told]  # from how many steps there will be


def untold(steps: int) -> Told:
    """Nobody wants to know."""
    return lambda text: None


@contextmanager
def progress() -> Iterator[Expect]:
    """What is done next, and how long the rest takes, on stderr."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
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
