"""A bundle beside an older one: the older's figures become bounds, and what got worse by more than a margin fails."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from runtime.bench.alternate import turns
from runtime.bench.items import plain_tokens
from runtime.bench.worker import Seconds, Timed
from runtime.engines import ENGINES, Engine
from runtime.errors import UserError
from runtime.gates import Gate, Gates, measured
from runtime.manifest import Manifest, Measure, Verification, read_manifest
from runtime.measures import worst_last
from runtime.progress import Status
from runtime.sessions.base import ModelInputs
from runtime.units import size

CHECK = "baseline"
FLOOR = 0.05  # of an error's own bound: smaller errors count as so much, as noise alone moves them manyfold
ROUNDS, PROMPT, TOKENS = 7, 64, 16  # of the race; in each both bundles prefill and decode so many positions
MOST = 28  # rounds, where the new one seems slower: other work disturbs some of them, a slower bundle is slower in all
WRITTEN: dict[str, Callable[[float], str]] = {  # how figures of a kind are
    "fidelity": "{:.3g}".format,
    "size": size,
    "memory": size,
    "speed": lambda seconds: f"{seconds * 1e3:.3g} ms",
}
Growth = tuple[str, str | None, str | None, float, float]  # name, engine, modality; before and now


def compare(
    bundle: Path, baseline: Path, found: Verification, gates: Gates, status: Status = lambda text: None
) -> Verification:
    """The verification of a bundle, and what grew since the baseline's, as shares of what that was.

    Args:
        found: of the bundle, of now.
        gates: `baseline_fidelity`, `baseline_size`, `baseline_memory` and `baseline_speed` are the margins.
        status: told what is going on.

    Raises:
        UserError: the baseline is no bundle, was never verified, or shares nothing with the bundle.
    """
    old, new = read_manifest(baseline), read_manifest(bundle)
    if old.verification is None:
        raise UserError(f"{baseline} was never verified: name a bundle that an export left in place")
    if not old.artifacts.keys() & new.artifacts.keys():
        raise UserError(f"{baseline} holds {', '.join(old.artifacts)} and {bundle} {', '.join(new.artifacts)}: "
                        "name a baseline with a format of the bundle")  # fmt: skip
    status("beside the baseline")
    parts = {
        "fidelity": _errors(old.verification.measures, found.measures),
        "size": _sizes(old, new),
        "memory": _memory(old, new),
    }
    measures = [_lost(gates, old, new, found)]
    measures += [_measure(gates, kind, growth) for kind, part in parts.items() for growth in part]
    skipped = {}
    if shortage := _why_no_race(old, new):
        skipped[f"{CHECK}'s speed"] = shortage
    else:
        measures += [_measure(gates, "speed", growth)
                     for growth in _race(baseline, bundle, old, new, gates["baseline_speed"], status)]  # fmt: skip
    passed = found.passed and all(measure.passed for measure in measures)
    return found.model_copy(update={"ran": [*found.ran, CHECK], "measures": [*found.measures, *measures],
                                    "skipped": found.skipped | skipped, "passed": passed})  # fmt: skip


def _measure(gates: Gates, kind: str, growth: Growth) -> Measure:
    name, engine, modality, before, now = growth
    value = (now - before) / before if before else float(now > 0)
    note = " to ".join(WRITTEN[kind](figure) for figure in (before, now))
    return measured(gates, CHECK, name, value, gates[f"baseline_{kind}"], engine, modality, note)


def _lost(gates: Gates, old: Manifest, new: Manifest, found: Verification) -> Measure:
    """Formats, and by engine and modality what the checks that ran now had measured before."""
    assert old.verification is not None
    before, now = (_measured(one.measures, found.ran) for one in (old.verification, found))
    gone = [name for name in old.artifacts if name not in new.artifacts] + sorted(before - now)
    return measured(gates, CHECK, "lost", len(gone), gates["baseline_lost"], note=", ".join(gone))


def _measured(measures: Iterable[Measure], checks: Collection[str]) -> set[str]:
    """What is there, whoever runs Core ML's packages on this machine."""
    return {" ".join(filter(None, (one.check, (one.engine or "").removesuffix("-evaluator"), one.modality)))
            for one in measures if one.check in checks}  # fmt: skip


# Fidelity


def _errors(before: Sequence[Measure], now: Sequence[Measure]) -> Iterator[Growth]:
    """Of all errors that both measured against a bound; a bound of 0 needs no baseline."""
    old, new = _worst(before), _worst(now)
    for key in (key for key in new if key in old):
        check, engine, modality, name = key
        floor = FLOOR * _error(new[key], new[key].bound)
        errors = [max(floor, _error(measure, measure.value)) for measure in (old[key], new[key])]
        yield f"{check}: {name}", engine, modality, errors[0], errors[1]


def _worst(measures: Iterable[Measure]) -> dict[tuple[str, str | None, str | None, str], Measure]:
    """Of the same thing measured several times."""
    gated = (measure for measure in measures if measure.bound and measure.check != CHECK)
    return {(measure.check, measure.engine, measure.modality, measure.name): measure for measure in worst_last(gated)}


def _error(measure: Measure, value: float | None) -> float:
    """Shares of right answers count by what is wrong."""
    assert value is not None
    return 1 - value if measure.at_least else value


# Size and memory


def _sizes(old: Manifest, new: Manifest) -> Iterator[Growth]:
    """Bytes of each artifact that both have."""
    for name in _common(old, new):
        before, now = (sum(file.size for file in manifest.files if file.path.startswith(f"{name}/"))
                       for manifest in (old, new))  # fmt: skip
        yield "bytes", name, None, before, now


def _memory(old: Manifest, new: Manifest) -> Iterator[Growth]:
    """Of caches at the largest context that both have room for, and of all where contexts are the same."""
    context = min(old.limits.context, new.limits.context)
    for name in _common(old, new):
        before, now = (manifest.artifacts[name].cache.at(context) for manifest in (old, new))
        yield "cache", name, None, before, now
    if old.limits.context == new.limits.context and old.artifacts.keys() == new.artifacts.keys():
        yield "minimum_memory", None, None, old.limits.minimum_memory, new.limits.minimum_memory


def _common(old: Manifest, new: Manifest) -> list[str]:
    """Formats of both."""
    return [name for name in new.artifacts if name in old.artifacts]


# Speed


def _why_no_race(old: Manifest, new: Manifest) -> str | None:
    """Both are held in memory at once."""
    needed, free = old.limits.minimum_memory + new.limits.minimum_memory, psutil.virtual_memory().available
    if needed > free:
        return f"both bundles in memory take {size(needed)}, {size(free)} are free"
    return None


def _race(baseline: Path, bundle: Path, old: Manifest, new: Manifest, gate: Gate, status: Status) -> Iterator[Growth]:
    """Engines that both have, by turns: what a round's noise does to one bundle it does to the other."""
    prompt = ModelInputs(np.resize(plain_tokens(new), PROMPT))
    for name in _common(old, new):
        for engine in (engine for engine in ENGINES[name] if not engine.evaluates):
            status(f"beside the baseline: speed of {engine.name}")
            yield from _race_engine(engine, baseline / name, bundle / name, prompt, gate.bound)


def _race_engine(engine: Engine, old: Path, new: Path, prompt: ModelInputs, margin: float) -> Iterator[Growth]:
    """Either one's fastest round; they take turns in going first."""
    runners = [Timed(partial(engine.open, folder)) for folder in (old, new)]
    for runner in runners:
        runner.open()
    before, now = race(runners, prompt, margin)
    yield "prefill_time", engine.name, None, before[0], now[0]
    yield "decode_time", engine.name, None, before[1], now[1]


def race(runners: Sequence[Timed], prompt: ModelInputs, margin: float) -> list[tuple[float, float]]:
    """Each one's fastest prefill and token, in seconds; for longer where the second is slower by more than a margin."""
    tokens = prompt.input_ids[:TOKENS].tolist()
    times: dict[Timed, list[Seconds]] = {runner: [] for runner in runners}
    number, slower = 0, False
    while number <= ROUNDS or (slower and number <= MOST):
        for runner in turns(runners, number):
            times[runner].append(runner.prefill(prompt, tokens))
        before, now = fastest = [_fastest(times[runner][1:] or times[runner]) for runner in runners]  # one warms up
        slower = any(new > old * (1 + margin) for old, new in zip(before, now, strict=True))
        number += 1
    return fastest


def _fastest(times: Sequence[Seconds]) -> tuple[float, float]:
    """Seconds of the prompt and of a token after it."""
    return min(taken.prefill for taken in times), min(taken.decode or 0.0 for taken in times) / TOKENS
