"""A bench on this machine."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from runtime.bench.alternate import Runner, load_all, steps, work_all
from runtime.bench.items import Item, make_items, soft_tokens
from runtime.bench.llama import PEER, LlamaSession, require_llama
from runtime.bench.machine import describe_machine
from runtime.bench.memory import highest
from runtime.bench.plan import Wanted, plan_work
from runtime.bench.progress import Expect, untold
from runtime.bench.result import Bench, EngineSpeed, Figure, MediaSpeed, MemoryUse, Resident, TextSpeed, Work, ratios
from runtime.engines import ENGINES, Engine, find_engine
from runtime.errors import UserError
from runtime.manifest import Manifest, read_manifest
from runtime.units import size


def bench_here(
    bundle: Path, wanted: Wanted, choices: Sequence[str] = (), gguf: Path | None = None, expect: Expect = untold
) -> Bench:
    """Every engine in turn.

    Args:
        choices: of engines, see `Engine.choice`; by default all that run here.
        gguf: model of the peer, llama.cpp, if it is to take part.
        expect: is told what goes on.

    Raises:
        UserError: no bundle there, no such engine, an engine that was named does not run, nothing is left to measure,
            or there is no memory for all of them at once.
    """
    manifest = read_manifest(bundle)
    work, notes = plan_work(replace(wanted, threads=wanted.threads or cores()), manifest.limits.context)
    runners = find_runners(bundle, manifest, work, choices, gguf)
    require_memory(manifest, len(runners))
    items, machine = make_items(bundle, manifest, work), describe_machine()
    engines, skipped = _measure(runners, items, work, manifest, bool(choices), expect)
    peer = next((engine for engine in engines if engine.engine == PEER), None)
    return Bench(
        bundle=bundle.resolve().name, target=manifest.target, recipe=manifest.recipe.name,
        context=manifest.limits.context, device="here", work=work, machine=machine, engines=engines,
        ratios=ratios(engines, peer) if peer else [], skipped=skipped, notes=notes,
    )  # fmt: skip


def _measure(
    runners: Sequence[Runner], items: Sequence[Item], work: Work, manifest: Manifest, named: bool, expect: Expect
) -> tuple[list[EngineSpeed], dict[str, str]]:
    """Of each engine that runs, and the reasons of those that do not."""
    told = expect(steps(len(runners), len(items), work))
    with ExitStack() as opened:
        for runner in runners:
            opened.callback(runner.close)
        skipped = load_all(runners, items[0], work.loads, told)
        _require_some(skipped, runners, named)
        there = [runner for runner in runners if runner.name not in skipped]
        work_all(there, items, work, told)
        return [_speed(runner, items, manifest) for runner in there], skipped


def cores() -> int:
    """As many threads as every engine gets, so that their figures compare."""
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def find_runners(
    bundle: Path, manifest: Manifest, work: Work, choices: Sequence[str], gguf: Path | None
) -> list[Runner]:
    """Engines, and the peer.

    Raises:
        UserError: there is no such engine, or none, or the peer is not installed.
    """
    runners = [_runner(engine, bundle / format_, work.threads) for engine, format_ in chosen(manifest, choices)]
    if gguf:
        require_llama()
        room = work.lengths[-1] + work.tokens
        runners.append(Runner(PEER, partial(LlamaSession, gguf, work.threads, room), ("llama_cpp",), media=False))
    return runners


def chosen(manifest: Manifest, choices: Sequence[str]) -> list[tuple[Engine, str]]:
    """Engines with their formats: those named, or all but evaluators, which are no measure of speed.

    Raises:
        UserError: there is no such engine, or none at all.
    """
    if choices:
        return [find_engine(manifest, choice) for choice in dict.fromkeys(choices)]
    found = [(engine, format_) for format_ in manifest.artifacts for engine in ENGINES.get(format_, ())]
    fit = [(engine, format_) for engine, format_ in found if not engine.evaluates]
    if not fit:
        names = ", ".join(engine.choice for engine, _ in found)
        raise UserError("nothing of the bundle runs here but an evaluator, whose speed means nothing: "
                        f"name it with --engine to time it all the same ({names})")  # fmt: skip
    return fit


def _runner(engine: Engine, folder: Path, threads: int | None) -> Runner:
    opens = partial(engine.open, folder, threads) if engine.takes_threads else partial(engine.open, folder)
    return Runner(engine.name, opens, engine.late)


def require_memory(manifest: Manifest, engines: int) -> None:
    """Raises:
    UserError: so many engines at once need more than is free; a machine that swaps measures its disk.
    """
    need, free = manifest.limits.minimum_memory * engines, psutil.virtual_memory().available
    if need > free:
        raise UserError(f"{engines} engines at once need {size(need)} of memory and {size(free)} is free: "
                        "name fewer with --engine, or free some")  # fmt: skip


def _require_some(skipped: dict[str, str], runners: Sequence[Runner], named: bool) -> None:
    missing = skipped if named or len(skipped) == len(runners) else {PEER: skipped.get(PEER)}
    for name, reason in missing.items():
        if reason:
            raise UserError(f"{name}: {reason}")


# What it comes to


def _speed(runner: Runner, items: Sequence[Item], manifest: Manifest) -> EngineSpeed:
    numbered = [(number, item) for number, item in enumerate(items) if number in runner.prefills]
    return EngineSpeed(
        engine=runner.name,
        load=Figure.of(runner.loads),
        first_token=Figure.of(runner.first_tokens),
        threads=runner.threads,
        text=[_text(runner, number, item) for number, item in numbered if item.kind == "text"],
        media=[_media(runner, number, item, manifest) for number, item in numbered if item.kind != "text"],
        memory=_memory(runner),
        notes=[],
    )


def _text(runner: Runner, number: int, item: Item) -> TextSpeed:
    taken = runner.prefills[number]
    return TextSpeed(
        length=item.length,
        first_token=Figure.of([seconds.prefill for seconds in taken]),
        prefill=Figure.of([item.length / seconds.prefill for seconds in taken]),
        decode=Figure.of([len(item.tokens) / seconds.decode for seconds in taken if seconds.decode])
        if item.tokens
        else None,
    )


def _media(runner: Runner, number: int, item: Item, manifest: Manifest) -> MediaSpeed:
    assert item.kind != "text"
    encodes = [seconds for seconds in runner.encodes[number] if seconds is not None]
    return MediaSpeed(
        modality=item.kind,
        positions=soft_tokens(item, manifest.tokens),
        prompt=item.length,
        encode=Figure.of(encodes) if encodes else None,
        prefill=Figure.of([seconds.prefill for seconds in runner.prefills[number]]),
    )


def _memory(runner: Runner) -> MemoryUse:
    assert runner.worker and runner.imported and runner.loaded, "loaded before"
    steady = runner.worker.memory()
    return MemoryUse(
        imported=Resident.of(runner.imported), loaded=Resident.of(runner.loaded), steady=Resident.of(steady),
        peak=Resident.at_peak(highest(runner.worker.samples)),
    )  # fmt: skip
