"""A description for people."""

import re
from collections.abc import Iterable, Mapping
from itertools import groupby

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from runtime.inspection.description import Bundle, Description, Graph, Verdict
from runtime.manifest import Port
from runtime.units import size

SHOWN = 40  # files listed; the rest is counted


def show(description: Description, console: Console) -> None:
    """All that is known, except where many ports differ in a number only: these share a line."""
    console.print(f"[bold]{escape(description.path)}[/]: {description.kind}, {size(description.size)}")
    _show_origin(description, console)
    if description.bundle:
        _show_bundle(description.bundle, console)
    _show_contents(description, console)
    for format_, artifact in description.artifacts.items():
        console.print(f"\n[bold]{format_}/[/]: {size(artifact.size)}")
        _show_contents(artifact, console)
    _show_files(description, console)
    for note in description.notes:
        console.print(f"[yellow]{escape(note)}[/]")


def _show_origin(description: Description, console: Console) -> None:
    if source := description.source:
        revision = f" at {source.revision}" if source.revision else ""
        console.print(escape(f"source   {source.name}{revision}, {source.model_type}, licence {source.licence}"))
    if recipe := description.recipe:
        told = f"{recipe.description}; {recipe.bits_per_weight:.3g} bits per weight, cache of {recipe.kv_bits} bits"
        console.print(escape(f"recipe   {recipe.name}: {told}"))


def _show_bundle(bundle: Bundle, console: Console) -> None:
    limits = bundle.limits
    media = {"per image": limits.image_soft_tokens, "per clip": limits.audio_soft_tokens}
    soft = [f"{count} soft tokens {what}" for what, count in media.items() if count]
    told = [f"{limits.context} positions", f"window of {limits.sliding_window}", *soft]
    console.print(f"target   {escape(bundle.target)}")
    console.print(f"limits   {', '.join(told)}; needs {size(limits.minimum_memory)} of memory")
    kinds = [f"{len(list(same))} {kind}" for kind, same in groupby(sorted(bundle.goldens.values()))]
    console.print(f"goldens  {', '.join(kinds) or 'none'}")
    console.print(escape(f"made by  {', '.join(f'{name} {version}' for name, version in bundle.tools.items())}"))
    console.print(f"verdict  {_verdict(bundle.verdict)}")
    positions = dict.fromkeys(count for artifact in bundle.artifacts.values() for count in artifact.cache)
    columns = "artifact", "size", *(f"cache at {count}" for count in positions), "programs"
    table = Table(*columns, box=None, pad_edge=False)
    for name, artifact in bundle.artifacts.items():
        table.add_row(name, size(artifact.bytes), *map(size, artifact.cache.values()), _some(artifact.programs))
    console.print(table)


def _verdict(verdict: Verdict | None) -> str:
    if verdict is None:
        return "[yellow]never verified[/]"
    failed = f"[bold red]gates failed: {escape(', '.join(verdict.failed))}[/]"
    skipped = f"; skipped {escape(', '.join(verdict.skipped))}" if verdict.skipped else ""
    told = f"{verdict.measures} measures of {escape(', '.join(verdict.ran))}{skipped}; reference {verdict.reference}"
    return f"{'[bold green]verified[/]' if verdict.passed else failed}: {told}"


def _some(names: list[str]) -> str:
    """Those that differ in a number only, once."""
    return escape(", ".join(dict.fromkeys(re.sub(r"\d+", "*", name) for name in names)))


def _show_contents(description: Description, console: Console) -> None:
    for graph in description.graphs:
        _show_graph(graph, console)
    if description.facts:
        facts = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                          for name, value in description.facts.items())  # fmt: skip
        console.print(escape(f"facts    {facts}"))
    if description.weights:
        _show_weights(description, console)


def _show_graph(graph: Graph, console: Console) -> None:
    console.print(f"[bold]{escape(graph.name)}[/]" + (f" in {escape(graph.file)}" if graph.file else ""))
    ports = Table(box=None, pad_edge=False, show_header=False)
    for what, named in (("in", graph.inputs), ("state", graph.states), ("out", graph.outputs)):
        for (name, dtype, shape), count in _ports(named).items():
            ports.add_row(what, escape(name), f"x {count}" if count > 1 else "", dtype, escape(shape))
    console.print(_indented(ports))
    counted = {"operators": graph.operators, "delegates": graph.delegates, "inside them": graph.delegated}
    for what, counts in counted.items():
        if counts:
            console.print(_indented(escape(f"{sum(counts.values())} {what}: {_counts(counts)}")))
    if graph.arenas:
        console.print(_indented(f"memory beside weights: {' + '.join(map(size, graph.arenas))}"))


def _indented(shown: RenderableType) -> Padding:
    return Padding(shown, (0, 0, 0, 2), expand=False)


def _ports(ports: Iterable[Port]) -> dict[tuple[str, str, str], int]:
    """Names, dtypes and shapes; those of which only a number in the name differs share one, and are counted."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for port in ports:
        key = re.sub(r"\d+", "*", port.name), port.dtype, f"[{', '.join(map(str, port.shape))}]"
        alike.setdefault(key, []).append(port.name)
    return {(key[0] if len(names) > 1 else names[0], *key[1:]): len(names) for key, names in alike.items()}


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name.removeprefix('aten::')} {count}" for name, count in counts.items())


def _show_weights(description: Description, console: Console) -> None:
    table = Table("weights", "", "bits", "tensors", "values", "size", box=None, pad_edge=False)
    for weights in description.weights:
        table.add_row(weights.dtype, weights.part, str(weights.bits), str(weights.count), f"{weights.values:,}",
                      size(weights.bytes))  # fmt: skip
    totals = (sum(getattr(weights, name) for weights in description.weights) for name in ("count", "values", "bytes"))
    count, values, stored = totals
    table.add_row("all", "", "", str(count), f"{values:,}", size(stored))
    console.print(table)


def _show_files(description: Description, console: Console) -> None:
    """The largest first."""
    table = Table("file", "size", box=None, pad_edge=False)
    files = sorted(description.files.items(), key=lambda file: (-file[1], file[0]))
    for name, count in files[:SHOWN]:
        table.add_row(escape(name), size(count))
    console.print()
    console.print(table)
    if len(files) > SHOWN:
        console.print(f"and {len(files) - SHOWN} more")
