"""Plots as inline SVG, whose colours are the page's: they follow it from light to dark."""

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from itertools import cycle
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.typing import RcKeyType

from runtime.bench.result import EngineSpeed
from runtime.manifest import CacheMemory
from runtime.report.rounding import Rounding
from runtime.report.sizes import GOLDENS, SHARED, Component
from runtime.units import size

WIDTH = 7.6  # inches
LEAST = 1e-9  # of a KL that a logarithmic axis shows
# Colours that nothing else has, and the page's variables that replace them.
INK, FAINT, MUTED, FIRST, SECOND, THIRD = "#000101", "#000102", "#000103", "#000104", "#000105", "#000106"
VARIABLES = {INK: "ink", FAINT: "line", MUTED: "muted", FIRST: "first", SECOND: "second", THIRD: "third"}
SERIES = FIRST, SECOND, THIRD
DASHES = "-", "--", ":"
STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "report",  # the same ids every time
    "text.parse_math": False,  # names may hold a $
    "text.color": INK,
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}


def plot_sizes(components: Sequence[Component]) -> Markup:
    """A bar for each component, a colour for each format."""
    formats = dict.fromkeys(row.place for row in components if row.place not in (SHARED, GOLDENS))
    colours = dict(zip(formats, cycle(SERIES), strict=False))

    def draw(axes: Axes) -> None:
        names = [row.name if row.name == row.place else f"{row.place}: {row.name}" for row in components]
        bars = axes.barh(
            range(len(names)),
            [row.size for row in components],
            color=[colours.get(row.place, MUTED) for row in components],
        )
        axes.bar_label(bars, [size(row.size) for row in components], padding=4, color=INK)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.margins(x=0.12)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))

    return _inline(draw, 0.5 + 0.27 * len(components), "Bytes of each component")


def plot_rounding(rounding: Rounding) -> Markup:
    """A dot for each weight of each layer, over one for plain absmax scales."""

    def draw(axes: Axes) -> None:
        points = [(layer, error) for layer, modules in rounding.layers.items() for error in modules.values()]
        layers = [layer for layer, _ in points]
        axes.scatter(layers, [error.plain_error for _, error in points], s=14, color=MUTED, alpha=0.45, linewidths=0,
                     label="plain absmax scales")  # fmt: skip
        axes.scatter(layers, [error.error for _, error in points], s=16, color=FIRST, linewidths=0,
                     label="scales as searched for")  # fmt: skip
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.2f} %"))
        axes.grid(False, axis="x")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)

    return _inline(draw, 2.6, "Rounding error of each weight by layer")


def plot_cache(caches: Mapping[str, CacheMemory], context: int) -> Markup:
    """A line for each format."""

    def draw(axes: Axes) -> None:
        for (name, cache), colour, dash in zip(caches.items(), cycle(SERIES), cycle(DASHES), strict=False):
            positions = [0, context]
            axes.plot(positions, [cache.at(position) for position in positions], dash, color=colour, label=name)
        axes.set_xlabel("positions")
        axes.set_xlim(0, context)
        axes.set_ylim(0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)

    return _inline(draw, 2.6, "Memory of keys and values over positions")


def plot_divergence(series: Mapping[str, Sequence[tuple[int, float]]], window: int) -> Markup:
    """KL over positions, a line for each engine; past the mark sliding layers no longer see all that came before."""

    def draw(axes: Axes) -> None:
        for (name, points), colour, dash in zip(series.items(), cycle(SERIES), cycle(DASHES), strict=False):
            positions, values = zip(*points, strict=True)
            axes.plot(positions, [max(value, LEAST) for value in values], dash, color=colour, label=name, linewidth=1)
        axes.axvline(window, color=MUTED, linewidth=1)
        axes.annotate("window", (window, 1), (4, -4), ("data", "axes fraction"), "offset points", va="top", color=MUTED)
        axes.set_xlabel("position")
        axes.set_ylabel("KL, nats")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)

    return _inline(draw, 2.6, "KL divergence over positions")


def plot_speed(engines: Sequence[EngineSpeed]) -> Markup:
    """Tokens per second over positions, a colour for each engine: prefill drawn through, decoding behind it dashed."""

    def draw(axes: Axes) -> None:
        for engine, colour in zip(engines, cycle(SERIES), strict=False):
            prefills = [(row.length, row.prefill.median) for row in engine.text]
            decodes = [(row.length, row.decode.median) for row in engine.text if row.decode]
            axes.plot(*zip(*prefills, strict=True), "o-", color=colour, label=f"{engine.engine}: prefill")
            if decodes:
                axes.plot(*zip(*decodes, strict=True), "s--", color=colour, label="decode")
        axes.set_xlabel("positions")
        axes.set_ylabel("tokens per second")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)

    return _inline(draw, 3.4, "Tokens per second over positions")


def plot_resident(engines: Sequence[EngineSpeed]) -> Markup:
    """For each engine memory once loaded and in steady state: what no file backs, then what files do."""
    states = [(engine, when, memory) for engine in engines for when in ("loaded", "steady")
              if (memory := getattr(engine.memory, when))]  # fmt: skip

    def draw(axes: Axes) -> None:
        rows = range(len(states))
        anonymous = [memory.anonymous or 0 for _, _, memory in states]
        axes.barh(rows, anonymous, color=FIRST, label="no file backs it")
        axes.barh(
            rows, [memory.file or 0 for _, _, memory in states], left=anonymous, color=SECOND, label="a file does"
        )
        axes.set_yticks(rows, [f"{engine.engine}: {when}" for engine, when, _ in states])
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value)))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)

    return _inline(draw, 0.8 + 0.27 * len(states), "Resident memory of each engine")


def _inline(draw: Callable[[Axes], None], height: float, about: str) -> Markup:
    """What `draw` makes of one pair of axes, as an element of a page; `height` in inches."""
    text = StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure.subplots())
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_adapt(text.getvalue(), about))


def _adapt(svg: str, about: str) -> str:
    """Without what only files of their own have, and in the page's colours."""
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # several plots share a page, and ids must not
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(about)}" ', 1)
