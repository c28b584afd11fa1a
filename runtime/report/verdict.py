"""What the verification found: the verdict, a table for each check, the gates by their margins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.gates import GATES
from runtime.manifest import Manifest, Measure, Verification
from runtime.measures import group_rows, margin, worst_last
from runtime.report.text import count, gate

QUESTIONS = {
    "files": "Are all files there, with their size and sha256, and no others?",
    "bytes": "Has every weight, read back out of the artifact, the digest that the quantizer recorded?",
    "delegation": "Is every quantized linear in an XNNPACK delegate, and what runs in portable kernels?",
    "packages": "Does Apple's parser take every package, are inputs, states, operators and sizes right?",
    "template": "Do the goldens' messages still render to their tokens?",
    "goldens": "Do the real engines repeat the recorded answers?",
    "runner": "Does ExecuTorch's stock runner, which phones link, write the goldens' tokens?",
    "preprocessing": "How far is the engine's own treatment of images and audio from the checkpoint's processor?",
    "lowering": "What ships, in its real engine, against the quantized reference: the lowering error.",
    "rounding": "Are the int8 kernels the same arithmetic in torch?",
    "quantization": "The quantized reference against the source: the quantization error, a property of the recipe.",
    "baseline": "What grew since the older bundle, as shares of what it was there?",
}
WIDE = 0.5  # margins from here on are told apart
KINDS = "all", "text", "image", "audio", "long"  # columns in this order, others after them
REFERENCES = {
    "none": "Nothing was compared with a reference.",
    "whole": "The reference was transformers' model in fp32.",
    "streamed": "The reference was transformers' model in fp32, a layer at a time.",
}


@dataclass(frozen=True)
class Verdict:
    """In words."""

    kind: Literal["verified", "failed", "unverified"]
    text: str
    detail: str


@dataclass(frozen=True)
class Cell:
    """A figure for one kind of input, the worst where there are several."""

    worst: Measure
    times: int
    bound_differs: bool  # from its row's


@dataclass(frozen=True)
class Row:
    """A measure of one engine."""

    tightest: Measure
    about: str
    cells: list[Cell | None]  # by column


@dataclass(frozen=True)
class Table:
    """All measures of a check."""

    check: str
    question: str
    kinds: list[str]  # columns
    rows: list[Row]
    notes: list[Measure]  # measures that have one


def judge(manifest: Manifest) -> Verdict:
    """A bundle whose checks were all skipped is not verified, whatever `passed` says."""
    verification = manifest.verification
    if verification is None:
        return Verdict("unverified", "not verified", "The manifest holds no verification.")
    gates, skipped = gates_of(verification), count(len(verification.skipped), "skipped check")
    if failed := [measure for measure in verification.measures if not measure.passed]:
        names = ", ".join(dict.fromkeys(f"{measure.name} ({measure.check})" for measure in failed))
        return Verdict("failed", f"{count(len(failed), 'gate')} failed", f"Of {len(gates)}: {names}; {skipped}.")
    if not (gates and verification.passed):
        return Verdict("unverified", "not verified", f"No gate was tried; {skipped}.")
    tightest = gates[0]
    where = " ".join(filter(None, (tightest.check, tightest.engine, tightest.modality)))
    detail = f"All {count(len(gates), 'gate')} held, tightest {tightest.name} ({where}); {skipped}."
    return Verdict("verified", "verified", detail)


def gates_of(verification: Verification) -> list[Measure]:
    """Measures with a bound, failed ones first, then the tightest."""
    gated = [measure for measure in verification.measures if measure.bound is not None]
    return sorted(gated, key=lambda measure: (measure.passed, margin(measure)))


def split_gates(gates: Sequence[Measure]) -> tuple[list[Measure], list[Measure]]:
    """Those to look at, and those that hold widely."""
    wide = [measure for measure in gates if measure.passed and margin(measure) >= WIDE]
    return [measure for measure in gates if measure not in wide], wide


def tables(verification: Verification) -> list[Table]:
    """In the order in which checks ran."""
    checks = dict.fromkeys(measure.check for measure in verification.measures)
    return [_table(check, [measure for measure in verification.measures if measure.check == check]) for check in checks]


def _table(check: str, measures: Sequence[Measure]) -> Table:
    kinds = sorted({_kind(measure) for measure in measures}, key=_order)
    rows = [_row(same, kinds) for same in group_rows(measures)]
    notes = [measure for measure in measures if measure.note]
    return Table(check, QUESTIONS.get(check, ""), kinds, rows, notes)


def _row(same: Sequence[Measure], kinds: Sequence[str]) -> Row:
    tightest = worst_last(same)[-1]
    known = GATES.get(tightest.name)
    return Row(tightest, known.about if known else "", [_cell(same, kind, gate(tightest)) for kind in kinds])


def _cell(same: Sequence[Measure], kind: str, bound: str) -> Cell | None:
    found = worst_last(measure for measure in same if _kind(measure) == kind)
    return Cell(found[-1], len(found), gate(found[-1]) != bound) if found else None


def _kind(measure: Measure) -> str:
    return measure.modality or "all"


def _order(kind: str) -> tuple[int, str]:
    return (KINDS.index(kind), "") if kind in KINDS else (len(KINDS), kind)
