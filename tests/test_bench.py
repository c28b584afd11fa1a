"""Figures of a bench against clocks that are known, real engines taking turns, and input that cannot be measured."""

import importlib.util
import json
import mmap
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from runtime import goldens
from runtime.__main__ import app
from runtime.bench.alternate import Runner, load_all, work_all
from runtime.bench.items import Item, plain_tokens, special_tokens
from runtime.bench.local import chosen, require_memory
from runtime.bench.memory import Memory, highest, middle, parse_status, read_memory
from runtime.bench.plan import Wanted, plan_work
from runtime.bench.result import Bench, EngineSpeed, Figure, Ratio, ratios
from runtime.bench.worker import Worker
from runtime.errors import UserError
from runtime.manifest import read_manifest
from runtime.sessions.base import ModelInputs
from runtime.sessions.onnx import OnnxSession
from tests.clock import TICK, Clock, refuse

QUICK = ["--prefill", "8", "--context", "12", "--tokens", "3", "--loads", "1", "--threads", "1"]
CHOICE = {"onnxruntime": "onnx", "onnxruntime-genai": "genai"}


def text(length: int, tokens: int = 0) -> Item:
    return Item("text", ModelInputs(np.arange(length)), tuple(range(tokens)))


def bench(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, in this process; workers are processes of their own all the same."""
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


# What is measured


def test_figures_of_a_clock_that_is_known(tmp_path: Path) -> None:
    runner = Runner("clock", partial(Clock, "a"))
    work, _ = plan_work(Wanted("4", "8", tokens=5, repeats=2, warmup=0, loads=1), 100)
    try:
        assert load_all([runner], text(4), work.loads, lambda text: None) == {}
        work_all([runner], [text(4), text(8, 5)], work, lambda text: None)
    finally:
        runner.close()
    assert len(runner.loads) == 1 and 4 * TICK <= runner.first_tokens[0] < 8 * TICK
    for seconds in runner.prefills[0]:
        assert 4 * TICK <= seconds.prefill < 8 * TICK and seconds.decode is None
    for seconds in runner.prefills[1]:
        assert 8 * TICK <= seconds.prefill < 14 * TICK and seconds.decode and 5 * TICK <= seconds.decode < 10 * TICK


def test_engines_take_turns_and_warm_up_is_forgotten(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    runners = [Runner(name, partial(Clock, name, notes)) for name in "ab"]
    work, _ = plan_work(Wanted("1,2", "2", tokens=1, repeats=2, warmup=1, loads=1), 100)
    try:
        load_all(runners, text(3), work.loads, lambda text: None)
        work_all(runners, [text(1), text(2)], work, lambda text: None)
    finally:
        for runner in runners:
            runner.close()
    rounds = ["a1 b1 a2 b2", "b1 a1 b2 a2", "a1 b1 a2 b2"]
    assert notes.read_text().split() == " ".join(["a3 b3", *rounds]).split()
    assert [len(runner.prefills[item]) for runner in runners for item in (0, 1)] == [2, 2, 2, 2]


def test_a_process_that_dies_is_told() -> None:
    worker = Worker("clock", partial(Clock, "a", dies=True))
    worker.ask("open")
    with pytest.raises(UserError, match="clock: its process ended with code 9"):
        worker.ask("prefill", ModelInputs(np.arange(2)), ())
    worker.close()


def test_engines_that_do_not_open_are_left_out() -> None:
    runners = [Runner("refused", refuse), Runner("clock", partial(Clock, "a"))]
    assert load_all(runners, text(1), 1, lambda text: None) == {"refused": "not on this machine"}
    assert len(runners[1].loads) == 1 and not runners[0].loads
    runners[1].close()


# Memory


def test_memory_of_this_process_is_what_psutil_has() -> None:
    found, theirs = read_memory(os.getpid()), psutil.Process().memory_info()
    assert found.anonymous is not None and found.file is not None and found.peak is not None
    assert found.anonymous + found.file == pytest.approx(theirs.rss, rel=0.02)
    assert found.peak >= found.anonymous + found.file - 2**20


def test_memory_tells_what_files_back_from_what_none_does(tmp_path: Path) -> None:
    def grown(before: Memory) -> tuple[int, int]:
        now = read_memory(os.getpid())
        return (now.anonymous or 0) - (before.anonymous or 0), (now.file or 0) - (before.file or 0)

    count, path = 2**26, tmp_path / "mapped"
    path.write_bytes(b"1" * count)
    before = read_memory(os.getpid())
    held = mmap.mmap(-1, count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # malloc may serve any size from freed pages
    held.write(b"1" * count)
    anonymous, file = grown(before)
    assert anonymous == pytest.approx(count, rel=0.1) and abs(file) < count / 10
    before = read_memory(os.getpid())
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[::4096].count(b"1") == count // 4096
        anonymous, file = grown(before)
    assert file == pytest.approx(count, rel=0.1) and abs(anonymous) < count / 10
    held.close()


def test_samples_come_to_a_peak_of_each_kind_and_a_steady_one() -> None:
    samples = [Memory(1, 9, 10), Memory(7, 2, 12), Memory(5, 3, 12), Memory(6, 3, 12)]
    assert highest(samples) == Memory(7, 9, 12)
    assert middle(samples) == samples[3] and middle(samples[:1]) == samples[0]
    assert highest([Memory(1, None, None)]) == Memory(1, None, None)


def test_a_status_without_memory_is_told() -> None:
    lines = "VmHWM:\t  12 kB\nRssAnon:\t 3 kB\nRssFile:\t 4 kB\nRssShmem:\t 1 kB\n"
    assert parse_status(lines) == Memory(3 * 1024, 5 * 1024, 12 * 1024)
    with pytest.raises(KeyError):
        parse_status("Name:\tzombie\n")


# Figures


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=9), st.floats(0.1, 10))
def test_a_figure_does_not_depend_on_order_and_its_spread_not_on_the_unit(values: list[float], unit: float) -> None:
    found = Figure.of(values)
    assert found.median == Figure.of(values[::-1]).median
    assert min(values) * 0.999 <= found.median <= max(values) * 1.001
    assert found.spread == pytest.approx(Figure.of([value * unit for value in values]).spread, rel=1e-3, abs=1e-5)


def test_ratios_are_taken_round_by_round() -> None:
    """The machine slows down threefold in the last round: each engine's own median tells nothing of it."""
    engines = [_speed("ours", [10, 20, 4]), _speed("peer", [5, 10, 2])]
    assert ratios(engines, engines[1]) == [Ratio(engine="ours", peer="peer", length=8, prefill=2, decode=None)]


def _speed(name: str, rates: list[float]) -> EngineSpeed:
    one = {"median": 1, "spread": 0, "values": [1]}
    memory = {"anonymous": 1, "file": 1, "total": 2}
    row = {"length": 8, "first_token": one, "prefill": Figure.of(rates), "decode": None}
    return EngineSpeed.model_validate(
        {"engine": name, "load": one, "first_token": one, "threads": 1, "text": [row], "media": [], "notes": [],
         "memory": {"imported": None, "loaded": None, "steady": memory, "peak": memory}}
    )  # fmt: skip


# Plans


def test_contexts_are_lengths_too_and_all_are_cut_to_the_context() -> None:
    work, notes = plan_work(Wanted("64,16,16", "128,900", tokens=4), 512)
    assert work.lengths == [16, 64, 128, 508] and work.contexts == [128, 508]
    assert notes == ["900 positions were cut to the 508 that fit the context"]


@pytest.mark.parametrize("lengths", ["x", "0", "16,-1", "1.5", "16;32"])
def test_lengths_that_are_no_numbers(lengths: str) -> None:
    assert plan_work(Wanted(), 2048)[0].lengths == [16, 128, 512, 1024]
    with pytest.raises(UserError, match="write numbers of positions"):
        plan_work(Wanted(prefill=lengths), 512)


def test_prompts_are_of_no_special_token(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    ids, special = plain_tokens(manifest), special_tokens(manifest.tokens)
    assert {manifest.tokens.image, *manifest.tokens.eos, *manifest.tokens.suppress} <= set(special)
    assert len(ids) > 500 and not set(ids.tolist()) & set(special)


def test_more_engines_than_the_memory_holds(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    require_memory(manifest, 1)
    large = manifest.limits.model_copy(update={"minimum_memory": psutil.virtual_memory().total})
    with pytest.raises(UserError, match="2 engines at once need"):
        require_memory(manifest.model_copy(update={"limits": large}), 2)


def test_an_evaluator_is_timed_only_if_it_is_named(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    packages = manifest.model_copy(update={"artifacts": {"coreml": manifest.artifacts["onnx"]}})
    if sys.platform != "darwin":
        with pytest.raises(UserError, match="but an evaluator"):
            chosen(packages, [])
    assert [engine.choice for engine, _ in chosen(packages, ["coreml", "coreml"])] == ["coreml"]
    assert [engine.choice for engine, _ in chosen(manifest, [])] == ["onnx", "genai"]


# Real engines


@pytest.fixture(scope="module")
def measured(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, float, Bench]:
    """stdout, the file of --out, seconds that all took, and the result."""
    out, begun = tmp_path_factory.mktemp("bench") / "bench.json", time.perf_counter()
    code, said, error = bench(bundle, *QUICK, "--repeats", 3, "--out", out)
    assert code == 0, error
    return said, out.read_text(), time.perf_counter() - begun, Bench.model_validate_json(said.splitlines()[-1])


def test_tables_end_with_one_json_line(measured: tuple[str, str, float, Bench]) -> None:
    said, written, _, result = measured
    *tables, line = said.splitlines()
    assert written == line + "\n" and json.loads(line)["energy"] is None
    assert not [row for row in tables if row.startswith("{")]
    assert "Energy was not measured." in tables and "decode tokens/s" in said
    median = result.engines[0].text[1].decode.median  # type: ignore[union-attr]
    assert {f"{median:.3g}", f"{median:,.0f}"} & set("\n".join(tables).split())


def test_every_engine_has_every_figure(measured: tuple[str, str, float, Bench], bundle: Path) -> None:
    _, _, passed, result = measured
    assert [engine.engine for engine in result.engines] == list(CHOICE) and not result.skipped
    seconds = 0.0
    for engine in result.engines:
        assert [row.length for row in engine.text] == [8, 12]
        assert engine.text[0].decode is None and engine.text[1].decode
        for row in engine.text:
            assert len(row.prefill.values) == 3
            assert row.prefill.values[0] == pytest.approx(row.length / row.first_token.values[0], rel=1e-4)
            seconds += sum(row.first_token.values)
        seconds += sum(3 / rate for rate in engine.text[1].decode.values) + sum(engine.load.values)
        seconds += sum(value for row in engine.media for value in row.prefill.values)
    assert 0 < seconds < passed


def test_media_are_those_of_the_goldens(measured: tuple[str, str, float, Bench], bundle: Path) -> None:
    manifest, (onnx, genai) = read_manifest(bundle), measured[3].engines
    for row, kind in zip(onnx.media, ("image", "audio"), strict=True):
        inputs = goldens.read(next(one for one in manifest.goldens if one.modality == kind), bundle).inputs
        alone = OnnxSession(bundle / "onnx", 1).encode(inputs)
        assert row.modality == kind and row.prompt == len(inputs.input_ids)
        assert row.positions == len(alone) and row.encode and row.encode.median < row.prefill.median
    assert [row.encode for row in genai.media] == [None, None]  # it does not run its encoders alone


def test_memory_holds_the_weights(measured: tuple[str, str, float, Bench], bundle: Path) -> None:
    weights = (bundle / "onnx" / "model.data").stat().st_size
    for engine in measured[3].engines:
        memory = engine.memory
        assert memory.imported and memory.loaded and memory.imported.total and memory.loaded.total
        assert memory.loaded.total - memory.imported.total > weights
        assert memory.peak.total and memory.steady.total and memory.peak.total >= memory.steady.total


def test_no_process_stays_behind(measured: tuple[str, str, float, Bench]) -> None:
    names = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [name for name in names if "spawn_main" in name]


def test_threads_are_those_that_were_asked_for(measured: tuple[str, str, float, Bench], bundle: Path) -> None:
    """An engine that is given 4 has 3 more than with 1: the one that calls is the first."""
    code, said, error = bench(bundle, *QUICK[:-1], 4, "--repeats", 1, "--warmup", 0, "--json")
    assert code == 0, error
    assert said.count("\n") == 1  # the JSON line alone
    more = Bench.model_validate_json(said)
    for before, now in zip(measured[3].engines, more.engines, strict=True):
        assert before.threads is not None and now.threads == before.threads + 3
    assert more.work.threads == 4


def test_media_are_made_where_there_are_no_goldens(bundle: Path) -> None:
    from runtime.bench.items import make_items

    manifest = read_manifest(bundle)
    work, _ = plan_work(Wanted("8", "8"), 512)
    made = make_items(bundle, manifest.model_copy(update={"goldens": []}), work)
    assert [item.kind for item in made] == ["text", "image", "audio"]
    session = OnnxSession(bundle / "onnx", 1)
    for item in made[1:]:
        session.reset()
        assert np.isfinite(session.prefill(item.inputs)).all() and len(session.encode(item.inputs)) > 10
    with pytest.raises(ValueError, match="no image and no clip"):
        session.encode(made[0].inputs)


# Bad input


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--engine", "coreml"], "no artifact for engine 'coreml'"),
    (["--prefill", "many"], "--prefill 'many': write numbers"),
    (["--tokens", "9000"], "do not fit the context"),
    (["--vs", "mlx", "--gguf", "x"], "there is no peer 'mlx'"),
    (["--vs", "llama.cpp"], "go together"),
    (["--vs", "llama.cpp", "--gguf", "nowhere.gguf"], "nowhere.gguf is no file"),
    (["--out", "nowhere/bench.json"], "there is no folder"),
    (["--device", "usb"], "there is no device 'usb'"),
    (["--device", "adb"], "with --runner"),
    (["--runner", "x"], "add --device adb"),
    (["--device", "adb", "--engine", "onnx"], "executorch alone is timed"),
])  # fmt: skip
def test_bad_input_is_told_in_one_line(bundle: Path, arguments: list[str], reason: str) -> None:
    code, said, error = bench(bundle, *arguments)
    assert code == 2 and not said and error.count("\n") == 1 and error.startswith("error: ") and reason in error


def test_a_named_engine_that_does_not_open_ends_the_bench(bundle_copy: Path) -> None:
    (bundle_copy / "onnx" / "genai_config.json").unlink()
    code, _, error = bench(bundle_copy, *QUICK, "--engine", "onnx")
    assert code == 2 and "error: onnxruntime: " in error and "genai_config.json is missing" in error


HERE = importlib.util.find_spec("llama_cpp") is not None


@pytest.mark.skipif(HERE, reason="llama-cpp-python is installed")
def test_a_peer_that_is_not_installed_is_named(bundle: Path) -> None:
    code, _, error = bench(bundle, "--vs", "llama.cpp", "--gguf", bundle / "manifest.json")
    assert code == 2 and "llama-cpp-python is not installed" in error and "pip install" in error


@pytest.mark.skipif(not HERE or not importlib.util.find_spec("gguf"), reason="needs llama-cpp-python and gguf")
def test_the_peer_takes_turns(bundle: Path, tmp_path: Path) -> None:
    from benchmarks.gguf_model import write_gguf
    from benchmarks.random_checkpoint import TEXT

    settings = json.loads((bundle / "config.json").read_bytes())["text_config"]
    model = tmp_path / "random.gguf"
    write_gguf(model, 2, TEXT | {key: settings[key] for key in TEXT.keys() & settings.keys()})
    code, said, error = bench(bundle, *QUICK, "--engine", "onnx", "--json", "--repeats", 2, "--vs", "llama.cpp",
                              "--gguf", model)  # fmt: skip
    assert code == 0, error
    result = Bench.model_validate_json(said)
    assert [engine.engine for engine in result.engines] == ["onnxruntime", "llama.cpp"]
    assert [(ratio.length, ratio.decode is None) for ratio in result.ratios] == [(8, True), (12, False)]
    code, _, error = bench(bundle, *QUICK, "--engine", "onnx", "--vs", "llama.cpp", "--gguf", bundle / "config.json")
    assert code == 2 and "config.json does not open" in error


def test_children_import_nothing_but_their_engine() -> None:
    """What memory is measured beyond would hold torch otherwise."""
    heavy = ["torch", "transformers", "executorch", "coremltools"]
    code = f"import sys, runtime.bench.worker, runtime.sessions.onnx; print([*{{*{heavy}}} & {{*sys.modules}}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
