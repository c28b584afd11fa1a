"""What a check came to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """One line of the summary."""

    check: str
    verdict: Verdict
    note: str = ""
    count: int = 1  # tests in there


def passed(check: str, note: str = "", count: int = 1) -> Outcome:
    return Outcome(check, "passed", note, count)


def failed(check: str, note: str, count: int = 1) -> Outcome:
    return Outcome(check, "failed", note, count)


def skipped(check: str, note: str) -> Outcome:
    return Outcome(check, "skipped", note)


def verdict(check: str, faults: Sequence[str], note: str = "") -> Outcome:
    """Failed where there are faults."""
    return failed(check, "\n".join(faults)) if faults else passed(check, note)


def summary(outcomes: Sequence[Outcome]) -> str:
    """`N passed, N failed`, and `, N skipped` where some were."""
    counts = {
        kind: sum(one.count for one in outcomes if one.verdict == kind) for kind in ("passed", "failed", "skipped")
    }
    line = f"{counts['passed']} passed, {counts['failed']} failed"
    return f"{line}, {counts['skipped']} skipped" if counts["skipped"] else line
