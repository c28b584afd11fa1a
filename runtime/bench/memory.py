"""Memory of a process as its kernel counts it, split by whether a file backs it: such pages can be dropped."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class Memory:
    """Resident bytes; None: the system does not tell."""

    anonymous: int | None  # that no file backs
    file: int | None  # that files back: mapped weights, libraries, shared memory
    peak: int | None  # the most of both there was, since the program began or /proc/PID/clear_refs was written


def read_memory(pid: int) -> Memory:
    """Of a process.

    Linux: /proc/PID/status (getrusage's peak takes over that of the process that started this one). Elsewhere what
    psutil has: pages of this process alone are anonymous, and there is no peak.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    if LINUX:
        try:
            return parse_status(Path(f"/proc/{pid}/status").read_text())
        except (OSError, KeyError):  # a process that ended has a status without memory for a while
            raise psutil.NoSuchProcess(pid) from None
    found = psutil.Process(pid).memory_full_info()
    return Memory(found.uss, found.rss - found.uss, None)


def parse_status(text: str) -> Memory:
    """Of the lines of /proc/PID/status (proc_pid_status(5)).

    Raises:
        KeyError: it lacks those of memory.
    """
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    anonymous, files, shared, peak = (int(lines[name].split()[0]) * 1024
                                      for name in ("RssAnon", "RssFile", "RssShmem", "VmHWM"))  # fmt: skip
    return Memory(anonymous, files + shared, peak)


def highest(samples: Sequence[Memory]) -> Memory:
    """Of each kind on its own, whenever it was."""

    def most(kind: str) -> int | None:
        known = [value for value in (getattr(sample, kind) for sample in samples) if value is not None]
        return max(known, default=None)

    return Memory(most("anonymous"), most("file"), most("peak"))


def middle(samples: Sequence[Memory]) -> Memory:
    """The one in the middle of the second half, by anonymous memory: neither loading nor being taken down."""
    half = samples[len(samples) // 2 :]
    return sorted(half, key=lambda sample: sample.anonymous or 0)[len(half) // 2]
