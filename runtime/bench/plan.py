"""What is measured: lengths of prompts, contexts to decode at, rounds."""

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.bench.result import Work
from runtime.errors import UserError

PREFILL, CONTEXTS = "16,128,512", "128,1024"  # of an option, in positions


@dataclass(frozen=True)
class Wanted:
    """As a command line has it."""

    prefill: str | None = None  # None: as is usual where it is measured
    context: str | None = None
    tokens: int = 16
    repeats: int = 5
    warmup: int = 1
    loads: int = 3
    threads: int | None = None


def plan_work(wanted: Wanted, room: int) -> tuple[Work, list[str]]:
    """The work that fits into so many positions, and what had to be changed for that.

    Contexts are prefilled too, so each counts as one more length.

    Raises:
        UserError: lengths that are no numbers, or no room for the tokens that are to be decoded.
    """
    longest = room - wanted.tokens
    if longest < 1:
        raise UserError(f"{wanted.tokens} tokens do not fit the context of {room}: ask for fewer with --tokens")
    contexts, notes = _clip(_lengths(wanted.context or CONTEXTS, "--context"), longest)
    lengths, more = _clip(_lengths(wanted.prefill or PREFILL, "--prefill"), longest)
    work = Work(lengths=sorted({*lengths, *contexts}), contexts=contexts, tokens=wanted.tokens,
                repeats=wanted.repeats, warmup=wanted.warmup, loads=wanted.loads, threads=wanted.threads)  # fmt: skip
    return work, [*dict.fromkeys(notes + more)]


def _lengths(text: str, option: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise UserError(f"{option} {text!r}: write numbers of positions with commas between, as in {PREFILL}")
    return found


def _clip(lengths: Sequence[int], longest: int) -> tuple[list[int], list[str]]:
    notes = [f"{length} positions were cut to the {longest} that fit the context"
             for length in lengths if length > longest]  # fmt: skip
    return sorted({min(length, longest) for length in lengths}), notes
