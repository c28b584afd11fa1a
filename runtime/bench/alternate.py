"""Rounds in which every engine does the same thing one after another, so that noise falls on all alike."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from runtime.bench.items import Item
from runtime.bench.memory import Memory
from runtime.bench.progress import Told
from runtime.bench.result import Work
from runtime.bench.worker import Seconds, Worker
from runtime.errors import UserError
from runtime.sessions.base import Session

Taker = TypeVar("Taker")  # of turns


@dataclass
class Runner:
    """An engine that takes part, and what was measured of it."""

    name: str
    opens: Callable[[], Session]
    late: Sequence[str] = ()  # modules that opening imports
    media: bool = True  # whether it is given images and clips
    loads: list[float] = field(default_factory=list)  # seconds
    first_tokens: list[float] = field(default_factory=list)  # seconds, each right after a load
    prefills: dict[int, list[Seconds]] = field(default_factory=dict)  # by item
    encodes: dict[int, list[float | None]] = field(default_factory=dict)
    imported: Memory | None = None
    loaded: Memory | None = None
    threads: int | None = None
    worker: Worker | None = None  # the last one that was loaded

    def load(self, shortest: Item) -> None:
        """In a new process, which stays.

        Raises:
            UserError: the engine does not open the artifact.
        """
        self.close()
        self.worker = Worker(self.name, self.opens, self.late)
        self.imported = self.worker.memory()
        self.loads.append(self.worker.ask("open"))
        self.loaded, self.threads = self.worker.memory(), self.worker.threads
        self.first_tokens.append(self.worker.ask("prefill", shortest.inputs, ()).prefill)

    def work(self, number: int, item: Item) -> None:
        """One item, once."""
        assert self.worker, "loaded before"
        if item.kind != "text":
            self.encodes.setdefault(number, []).append(self.worker.ask("encode", item.inputs))
        self.prefills.setdefault(number, []).append(self.worker.ask("prefill", item.inputs, item.tokens))

    def close(self) -> None:
        if self.worker:
            self.worker.close()
        self.worker = None


def load_all(runners: Sequence[Runner], shortest: Item, loads: int, told: Told) -> dict[str, str]:
    """Every engine's artifact, so many times, each time in a new process.

    Returns:
        Of engines that do not open theirs, the reason.
    """
    failed: dict[str, str] = {}
    for round_ in range(loads):
        for runner in turns(runners, round_):
            told(f"{runner.name}: load {round_ + 1}")
            if runner.name in failed:
                continue
            try:
                runner.load(shortest)
            except UserError as error:
                failed[runner.name] = str(error).removeprefix(f"{runner.name}: ")
                runner.close()
    return failed


def work_all(runners: Sequence[Runner], items: Sequence[Item], work: Work, told: Told) -> None:
    """All rounds; those that warm up are forgotten."""
    for round_ in range(work.warmup + work.repeats):
        for number, item in enumerate(items):
            for runner in turns(runners, round_):
                told(f"{runner.name}: round {round_ + 1}, {item.kind} of {item.length} positions")
                if item.kind == "text" or runner.media:
                    runner.work(number, item)
        if round_ < work.warmup:
            for runner in runners:
                runner.prefills.clear()
                runner.encodes.clear()


def turns(runners: Sequence[Taker], round_: int) -> Iterator[Taker]:
    """Each round another one begins: the first finds the caches of processors as the last one left them."""
    first = round_ % len(runners) if runners else 0
    yield from [*runners[first:], *runners[:first]]


def steps(runners: int, items: int, work: Work) -> int:
    """How often `told` is called."""
    return runners * (work.loads + (work.warmup + work.repeats) * items)
