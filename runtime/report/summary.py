"""A verification as Markdown, for a pull request or a step's summary."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from runtime.errors import UserError
from runtime.manifest import Measure, Verification, read_manifest
from runtime.report import sizes
from runtime.report.text import gate, margin_left, value
from runtime.report.verdict import gates_of, judge
from runtime.units import size

TEMPLATE = "summary.md.jinja"
MARKUP = "\\`*_[]<>|~"  # what Markdown takes for more than text
TIGHTEST = 8  # gates that hold, shown at once; the others are folded


def append_summary(verification: Verification, bundle: Path, path: Path) -> None:
    """Appends, as CI services keep one file for all steps.

    Raises:
        UserError: the file cannot be written, or there is no bundle.
    """
    text = summarize(verification, bundle)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another with --markdown") from None


def summarize(verification: Verification, bundle: Path) -> str:
    """Verdict, failures, what every artifact takes, the tightest gates and, folded, all others."""
    manifest = read_manifest(bundle).model_copy(update={"verification": verification})
    gates = gates_of(verification)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    for filter_ in (size, value, gate, margin_left, plain, where):
        environment.filters[filter_.__name__] = filter_
    return environment.get_template(TEMPLATE).render(
        name=bundle.resolve().name,
        manifest=manifest,
        verdict=judge(manifest),
        places=sizes.format_sizes(sizes.components(manifest)),
        failed=[measure for measure in gates if not measure.passed],
        held=[measure for measure in gates if measure.passed],
        shown=TIGHTEST,
    )


def where(measure: Measure) -> str:
    """Check, engine and kind of input."""
    return ", ".join(filter(None, (measure.check, measure.engine, measure.modality)))


def plain(text: str) -> str:
    """In one line, with nothing that Markdown would read as more than text: a manifest may come from anywhere."""
    return "".join(f"\\{char}" if char in MARKUP else char for char in " ".join(text.split()))
