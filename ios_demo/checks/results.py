"""What passed, failed and was skipped, told as it comes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape

from runtime.errors import UserError

console = Console()


class Failed(Exception):
    """A check does not hold, and why."""


@dataclass
class Results:
    """Counts of checks."""

    passed: int = 0
    failed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)  # check to the reason

    @contextmanager
    def check(self, name: str) -> Iterator[None]:
        """Around one check, which holds unless it raises."""
        begun = time.monotonic()
        try:
            with console.status(escape(name)):
                yield
        except (Failed, UserError) as error:
            self.fail(name, str(error))
        else:
            self.hold(f"{name} ({time.monotonic() - begun:.1f} s)")

    def hold(self, name: str) -> None:
        self.passed += 1
        console.print(f"[green]ok[/]   {escape(name)}", highlight=False, soft_wrap=True)

    def fail(self, name: str, reason: str) -> None:
        self.failed += 1
        console.print(f"[bold red]FAIL[/] {escape(name)}\n{escape(reason)}", highlight=False, soft_wrap=True)

    def skip(self, name: str, reason: str) -> None:
        self.skipped[name] = reason
        console.print(f"[yellow]SKIP[/] {escape(name)}: {escape(reason)}", highlight=False, soft_wrap=True)

    @property
    def line(self) -> str:
        """The last one that is printed."""
        more = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{more}"
