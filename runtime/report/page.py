"""The page itself: one HTML file that needs nothing beside it."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from runtime.bench.result import Bench
from runtime.bench.show import describe, figure, notes, peak, resident
from runtime.errors import UserError
from runtime.files import write_whole
from runtime.manifest import Manifest, read_manifest
from runtime.measures import margin
from runtime.report import sizes, text
from runtime.report.plots import plot_cache, plot_divergence, plot_resident, plot_rounding, plot_sizes, plot_speed
from runtime.report.rounding import Rounding, read_rounding
from runtime.report.speed import read_bench
from runtime.report.verdict import REFERENCES, Verdict, gates_of, judge, split_gates, tables
from runtime.units import size

TEMPLATE = "report.html.jinja"
POSITIONS = 1024, 4096, 8192, 32768, 131072  # at which caches are told, as far as the context goes


def write_report(
    bundle: Path, out: Path | None = None, quantized: Path | None = None, bench: Path | None = None
) -> tuple[Path, Verdict]:
    """Writes the page beside its place and renames it; returns where it is, and the verdict on top of it.

    Args:
        bundle: folder with a manifest.
        out: file to write; by default beside the bundle, of its name.
        quantized: the quantized checkpoint; by default the one of the bundle's name under build/quantized.
        bench: what `bench --out` wrote of it.

    Raises:
        UserError: no bundle there, `quantized` is not what it was made from, `bench` is not of it, or `out` cannot be
            written or lies inside the bundle, which holds no file that its manifest does not list.
    """
    manifest, folder = read_manifest(bundle), bundle.resolve()
    path = out or folder.with_name(f"{folder.name}.html")
    if folder in path.resolve().parents:
        raise UserError(
            f"{path} lies in the bundle, whose manifest lists every file: choose a place outside with --out"
        )
    speed = read_bench(bench, folder.name, manifest) if bench else None
    page = render(folder.name, manifest, read_rounding(folder.name, manifest, quantized), speed)
    write_whole(path, page, "--out")
    return path, judge(manifest)


def render(name: str, manifest: Manifest, rounding: Rounding | str, bench: Bench | None = None) -> str:
    """The HTML of a bundle called `name`; `rounding` may say why there is none."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # a manifest may come from anywhere
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter_ in (size, text.number, text.value, text.gate, text.margin_left, text.outcome, text.percent,
                    text.count, margin, figure, resident, peak):  # fmt: skip
        environment.filters[filter_.__name__] = filter_
    facts = {"name": name, "manifest": manifest, "verdict": judge(manifest)}
    found = (
        _sizes(manifest)
        | _rounding(rounding)
        | _verification(manifest)
        | _divergence(manifest)
        | _memory(manifest)
        | _speed(bench)
    )
    return environment.get_template(TEMPLATE).render(facts | found)


def _sizes(manifest: Manifest) -> dict[str, Any]:
    components, parts = sizes.components(manifest), sizes.parts(manifest.tensors)
    return {
        "components": components,
        "places": sizes.format_sizes(components),
        "parts": parts,
        "all_parts": sizes.total(parts),
        "sizes_plot": plot_sizes(components),
    }


def _rounding(rounding: Rounding | str) -> dict[str, Any]:
    if isinstance(rounding, str):
        return {"rounding": None, "why_no_rounding": rounding}
    return {"rounding": rounding, "rounding_plot": plot_rounding(rounding) if rounding.layers else ""}


def _verification(manifest: Manifest) -> dict[str, Any]:
    """Nothing of a bundle that was not verified."""
    verification = manifest.verification
    if verification is None:
        return {"tables": [], "close": [], "wide": [], "skipped": {}, "reference": REFERENCES["none"]}
    close, wide = split_gates(gates_of(verification))
    return {
        "tables": tables(verification),
        "close": close,
        "wide": wide,
        "skipped": verification.skipped,
        "reference": REFERENCES[verification.reference],
    }


def _divergence(manifest: Manifest) -> dict[str, Any]:
    """KL position by position, of engines that were read so."""
    measures = manifest.verification.measures if manifest.verification else []
    series = {measure.engine or measure.check: measure.series for measure in measures if measure.series}
    return {"divergence_plot": plot_divergence(series, manifest.limits.sliding_window) if series else ""}


def _memory(manifest: Manifest) -> dict[str, Any]:
    context = manifest.limits.context
    caches = {name: artifact.cache for name, artifact in manifest.artifacts.items()}
    return {
        "caches": caches,
        "positions": [*(position for position in POSITIONS if position < context), context],
        "largest_cache": max((cache.at(context) for cache in caches.values()), default=0),
        "cache_plot": plot_cache(caches, context) if caches else "",
    }


def _speed(bench: Bench | None) -> dict[str, Any]:
    if bench is None or not bench.engines:
        return {"bench": None}
    return {
        "bench": bench,
        "machine": describe(bench.machine),
        "bench_notes": notes(bench),
        "speed_plot": plot_speed(bench.engines),
        "resident_plot": plot_resident(bench.engines),
    }
