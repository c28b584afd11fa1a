"""Verification of a bundle: the files that ship, run by the engines that will run them."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import or_
from pathlib import Path

from runtime.checks import (
    answers,
    delegation,
    files,
    goldens,
    lowering,
    packages,
    preprocessing,
    quantization,
    rounding,
    runner,
    template,
)
from runtime.checks import bytes as stored_bytes
from runtime.errors import UserError, first_line
from runtime.gates import GATES, Gate, Gates
from runtime.job import Job
from runtime.manifest import (
    QUANTIZED,
    RECORD,
    Manifest,
    Measure,
    Record,
    ReferenceKind,
    Verification,
    read_manifest,
)
from runtime.progress import Status
from runtime.quantized import read_own_record
from runtime.sessions.reference import memory_shortage
from runtime.untrusted import read_object

EVALUATION = Path(__file__).parent / "evaluation"


@dataclass(frozen=True)
class Check:
    """A part of the verification."""

    run: Callable[[Job], Iterator[Measure]]
    needs: tuple[str, ...] = ()  # beside the bundle
    needs_goldens: bool = False
    without_goldens: bool = False  # goldens say more: where there are any, it is no check of the bundle's
    formats: tuple[str, ...] = ()  # that it is about; where the bundle has none of them, likewise

    def why_no_part(self, manifest: Manifest) -> str | None:
        """Why it is no check of a bundle's, or None."""
        if self.without_goldens and manifest.goldens:
            return "is for bundles without goldens, and this one has some"
        if self.formats and not manifest.artifacts.keys() & self.formats:
            return f"is about {' and '.join(self.formats)}, the bundle holds {', '.join(manifest.artifacts)}"
        return None


CHECKS = {
    "files": Check(files.run),
    "bytes": Check(stored_bytes.run),
    "delegation": Check(delegation.run, formats=("executorch",)),
    "packages": Check(packages.run, formats=("coreml",)),
    "template": Check(template.run, needs_goldens=True),
    "answers": Check(answers.run, without_goldens=True),
    "goldens": Check(goldens.run, needs_goldens=True),
    "runner": Check(runner.run, needs_goldens=True, formats=("executorch",)),
    "preprocessing": Check(preprocessing.run, needs_goldens=True, formats=("onnx",)),
    "lowering": Check(lowering.run, ("quantized",)),
    "rounding": Check(rounding.run, ("quantized",), needs_goldens=True, formats=("onnx", "executorch")),
    "quantization": Check(quantization.run, ("quantized", "source", "evaluation")),
}
CRASHED = Gate(0, False, "checks that stopped with an error")


class Checked(Record):
    """What a check found."""

    measures: list[Measure]
    skipped: dict[str, str]  # what it and those before had to leave out, and why


Once = Callable[[str, Callable[[], Checked]], Checked]  # a check's name and the check, which may have run before


def verify(
    bundle: Path, quantized: Path | None = None, source: Path | None = None, evaluation: Path | None = None,
    gates: Gates = GATES, only: Collection[str] = (), status: Status = lambda text: None,
    reference: ReferenceKind = "whole",
    hashed: bool = False,
    once: Once = lambda name, check: check(),
) -> Verification:  # fmt: skip
    """Runs every check whose inputs are at hand.

    Args:
        bundle: folder with a manifest.
        quantized: the quantized checkpoint; by default the one of the bundle's name under build/quantized, if it has
            the bundle's weights.
        source: the checkpoint that was quantized; by default where the quantized checkpoint's record says it came from.
        evaluation: folder with held-out data; by default the one that comes with this package.
        only: names of checks to run, instead of all.
        status: told what is going on, for people who wait.
        reference: how checkpoints are run in transformers; what needs one that does not fit the memory is skipped.
        hashed: the manifest's checksums have just been taken of these very files, which are not read for it again.
        once: runs a check, or tells what it found when an interrupted run did.

    Raises:
        UserError: no bundle there, no check of a name in `only` or none for what it holds, or a checkpoint named that
            does not exist or is of other weights.
    """
    for name in (name for name in only if name not in CHECKS):
        raise UserError(f"no check {name!r}; there are {', '.join(CHECKS)}")
    job = replace(make_job(bundle, quantized, source, evaluation, gates, status, reference), hashed=hashed)
    if evaluation:
        _ = job.held_out  # unreadable data is bad input, not a failed check
    apart = {name: reason for name, check in CHECKS.items() if (reason := check.why_no_part(job.manifest))}
    for name in (name for name in only if name in apart):
        raise UserError(f"check {name} {apart[name]}: leave it out")
    wanted = {name: check for name, check in CHECKS.items() if name not in apart and (not only or name in only)}
    skipped = {name: reason for name, check in wanted.items() if (reason := _why_not(check, job))}
    ran = [name for name in wanted if name not in skipped]
    found = [once(name, partial(_run, name, wanted[name], job)) for name in ran]
    measures = [measure for checked in found for measure in checked.measures]
    return Verification(
        ran=ran,
        skipped=reduce(or_, (checked.skipped for checked in found), skipped),
        reference=job.kind if any("quantized" in wanted[name].needs for name in ran) else "none",
        measures=measures,
        passed=bool(measures) and all(measure.passed for measure in measures),
    )


def make_job(
    bundle: Path, quantized: Path | None, source: Path | None, evaluation: Path | None, gates: Gates,
    status: Status, reference: ReferenceKind = "whole",
) -> Job:  # fmt: skip
    """Looks for what was not named, in its usual place."""
    for path in filter(None, (quantized, source, evaluation)):
        if not path.is_dir():
            raise UserError(f"{path} is no folder: name an existing one, or leave it out to skip what needs it")
    manifest, unfit = read_manifest(bundle), None
    if quantized:
        read_own_record(quantized, manifest)
    else:
        quantized, unfit = _in_usual_place(QUANTIZED / bundle.resolve().name, manifest)
    return Job(
        bundle=bundle,
        manifest=manifest,
        gates=gates,
        quantized=quantized,
        source=source or (_recorded_source(quantized) if quantized else None),
        evaluation=evaluation or _if_there(EVALUATION),
        status=status,
        wanted_kind=reference,
        unfit=unfit,
    )


def _in_usual_place(quantized: Path, manifest: Manifest) -> tuple[Path | None, str | None]:
    """The bundle's own checkpoint, or why what lies there will not do; neither where there is none."""
    if not quantized.is_dir():
        return None, None
    try:
        read_own_record(quantized, manifest)
    except UserError as error:
        return None, str(error)
    return quantized, None


def _if_there(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _recorded_source(quantized: Path) -> Path | None:
    """Where the quantized checkpoint says it came from."""
    try:
        return _if_there(Path(read_object(quantized / RECORD, "quantize again")["source_path"]))
    except (UserError, KeyError, TypeError):
        return None


def _why_not(check: Check, job: Job) -> str | None:
    """The reason to skip a check, or None."""
    if missing := [need for need in check.needs if getattr(job, need) is None]:
        return job.unfit if job.unfit and "quantized" in missing else f"needs --{' and --'.join(missing)}"
    if check.needs_goldens and not job.manifest.goldens:
        return "the bundle holds no goldens"
    return _why_no_reference(job) if "quantized" in check.needs else None


def _why_no_reference(job: Job) -> str | None:
    if job.kind != "none":
        return None
    shortage = memory_shortage(job.quantized) if job.quantized and job.wanted_kind == "whole" else None
    return f"{shortage}; --reference streamed takes 4 GB, and hours" if shortage else "--reference none"


def _run(name: str, check: Check, job: Job) -> Checked:
    """A check; one that stops with an error, or finds nothing to measure, has failed, and the others still run."""
    measures: list[Measure] = []
    left_out = len(job.skipped)
    try:
        measures.extend(check.run(job))
        if not measures and len(job.skipped) == left_out:
            raise UserError("there was nothing to measure: is the bundle whole?")
    except Exception as error:  # an engine refuses damaged files in ways of its own
        measures.append(job.measure(name, "stopped", 1, CRASHED, note=first_line(error)))
    return Checked(measures=measures, skipped=dict(job.skipped))
