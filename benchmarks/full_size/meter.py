"""The work of a process, cut into steps that are measured one by one."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from benchmarks.measuring import anonymous, anonymous_peak, forget_peak, memory, read_speed, size, write_speed

SAMPLE = 2**31  # bytes that the disk's speeds are measured with
MIB = 2**20


@dataclass(frozen=True)
class Disk:
    """Bytes per second, one after another."""

    read: float
    write: float

    @classmethod
    def measure(cls, folder: Path) -> "Disk":
        """With the files in a folder, which are dropped from the page cache, and with one written beside it."""
        return cls(read_speed(folder, SAMPLE), write_speed(folder.with_suffix(".zeros"), min(SAMPLE, size(folder))))


@dataclass
class Step:
    """What was measured of it."""

    name: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of all threads; on a busy machine far from what the wall clock says
    peak_rss: int = 0  # bytes, files that are mapped included
    anonymous: int = 0  # bytes that no file backs, beyond what imports took
    read: int = 0  # bytes that it must read
    written: int = 0  # and write

    def facts(self, disk: Disk) -> dict[str, Any]:
        """With the time that the disk alone takes for the same bytes."""
        seconds = self.read / disk.read + self.written / disk.write
        return asdict(self) | {"disk_seconds": seconds, "ratio_to_disk": self.seconds / seconds if seconds else 0.0}


class Meter:
    """Begin it when imports are done."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._process = psutil.Process()
        self._base = anonymous(self._process)
        self._open = ExitStack()

    def begin(self, name: str) -> Step:
        """Ends the step before, unless it has this name."""
        if not self.steps or self.steps[-1].name != name:
            self._open.close()
            self.steps.append(Step(name))
            self._open.enter_context(_measured(self.steps[-1], anonymous(self._process) - self._base))
        return self.steps[-1]

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()


@contextmanager
def _measured(step: Step, held: int) -> Iterator[None]:
    """While it lasts, it is this step.

    Args:
        held: bytes of anonymous memory that the process has from steps before.
    """
    forget_peak()
    begun, processor = time.perf_counter(), time.process_time()
    with anonymous_peak() as peak:
        yield
    step.seconds, step.cpu_seconds = time.perf_counter() - begun, time.process_time() - processor
    step.anonymous = max(0, held + peak[0])  # what earlier steps left may be freed meanwhile
    step.peak_rss = round(memory()["peak_mib"] * MIB)
