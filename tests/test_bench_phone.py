"""The way to a phone and back, by an adb that plays one: files that were cut, damaged or there, figures, refusals."""

import json
import random
import shlex
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from export.models import EMBEDDED
from runtime.__main__ import app
from runtime.bench.adb import choose_device
from runtime.bench.observer import read_run
from runtime.bench.phone import make_prompts
from runtime.bench.result import Bench
from runtime.errors import UserError
from runtime.manifest import (
    FORMAT_VERSION,
    Artifact,
    CacheMemory,
    File,
    Limits,
    Manifest,
    Recipe,
    Sampling,
    Source,
    Tokens,
    write_manifest,
)

HERE = Path(__file__).parent
STORAGE = "gemma4-edge/little"  # of the bundle, under what plays /data/local/tmp
SIZE = 3 * 2**20 + 5  # bytes of the little model
QUICK = ["--prefill", "8", "--context", "8", "--tokens", "4", "--repeats", "1", "--warmup", "0"]
REPORT = {"prompt_tokens": 20, "generated_tokens": 4, "model_load_start_ms": 1000, "model_load_end_ms": 1500,
          "inference_start_ms": 2000, "prompt_eval_end_ms": 2100, "first_token_ms": 2100, "inference_end_ms": 2600,
          "aggregate_sampling_time_ms": 1, "SCALING_FACTOR_UNITS_PER_SECOND": 1000}  # fmt: skip
Bencher = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Little, with everything that is pushed and nothing that is run."""
    folder = tmp_path / "little"
    (folder / "executorch").mkdir(parents=True)
    (folder / "onnx").mkdir()
    (folder / "executorch" / "model.pte").write_bytes(random.Random(0).randbytes(SIZE))
    (folder / "onnx" / "model.data").write_bytes(b"not for the phone")
    (folder / "tokenizer.json").write_bytes((EMBEDDED["tiny"] / "tokenizer.json").read_bytes())
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = [File(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=digest(path))
             for path in paths]  # fmt: skip
    write_manifest(folder, _manifest(files))
    return folder


def _manifest(files: list[File]) -> Manifest:
    cache = CacheMemory(fixed=0, per_position=1)
    ids = dict.fromkeys(("image", "audio", "video", "begin_image", "end_image", "begin_audio", "end_audio"))
    return Manifest(
        format_version=FORMAT_VERSION, target="android", files=files, tensors=[], goldens=[], tools={},
        source=Source(name="little", revision=None, sha256="0", model_type="", licence=""),
        recipe=Recipe(name="int4", description="", bits_per_weight=4.5, kv_bits=32),
        artifacts={"executorch": Artifact(programs={}, cache=cache)},
        tokens=Tokens(bos=2, eos=[1], pad=0, suppress=[], **ids),
        sampling=Sampling(do_sample=False, temperature=1, top_k=1, top_p=1),
        limits=Limits(context=512, sliding_window=128, image_soft_tokens=None, audio_soft_tokens=None,
                      minimum_memory=0),
    )  # fmt: skip


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that plays a phone's storage, and an adb on PATH that leads there."""
    folder, programs = tmp_path / "phone", tmp_path / "programs"
    write_program(programs / "adb", f'exec {sys.executable} -S {HERE / "fake_adb.py"} "$@"')
    write_program(folder / "bin" / "getprop", "case $1 in *.model) echo Pretend;; *.release) echo 15;; esac")
    monkeypatch.setenv("PHONE", str(folder))
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return folder


def write_program(path: Path, lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bench(bundle: Path, phone: Path, tmp_path: Path) -> Bencher:
    """Exit code, stdout and stderr of a bench whose runner says what it is given, and a report, after a while."""

    def run(report: object = REPORT, *more: str, code: int = 0) -> tuple[int, str, str]:
        said = f"PyTorchObserver {json.dumps(report)}" if isinstance(report, dict) else str(report)
        lines = f"printf '%s\\n' \"$@\" > given\nsleep 0.3\necho {shlex.quote(said)}\nexit {code}"
        runner = write_program(tmp_path / "runner", lines)
        arguments = ["bench", str(bundle), "--device", "adb", "--runner", str(runner), "--json", *QUICK, *more]
        result = CliRunner().invoke(app, arguments)
        return result.exit_code, result.stdout, result.stderr

    return run


def transfers(phone: Path) -> list[int]:
    """Bytes of each, scripts and manifests left out."""
    return [int(line) for line in (phone / "transfers").read_text().split() if int(line) > 2**16]


def model(phone: Path) -> Path:
    return phone / STORAGE / "executorch" / "model.pte"


# Figures


def test_figures_are_the_runners(bench: Bencher, phone: Path) -> None:
    code, said, error = bench(REPORT, "--context", "12", "--repeats", "2", "--warmup", "1")
    assert code == 0, error
    result = Bench.model_validate_json(said)
    (engine,) = result.engines
    assert result.device == "adb:fake01" and "Pretend" in result.machine.name and "Android 15" in result.machine.system
    assert engine.load.values == [0.5] * 4 and result.work.loads == 4
    assert [row.prefill.median for row in engine.text] == [200, 200]  # 20 tokens in 0.1 s
    assert engine.text[0].decode is None and engine.text[1].decode and engine.text[1].decode.median == 8  # 4 in 0.5 s
    assert engine.memory.steady.anonymous and engine.memory.peak.total and engine.threads == 1
    assert engine.memory.peak.total >= engine.memory.steady.anonymous


def test_the_runner_gets_its_arguments_whole(bench: Bencher, bundle: Path, phone: Path) -> None:
    assert bench(REPORT, "--threads", "3")[0] == 0
    given = (phone / STORAGE / "given").read_text().splitlines()
    pairs = dict(zip(given[::2], given[1::2], strict=True))
    assert pairs["--prompt"] == make_prompts(bundle, [8])[0]
    assert (pairs["--model_path"], pairs["--data_path"]) == ("executorch/model.pte", "")
    assert (pairs["--cpu_threads"], pairs["--max_new_tokens"]) == ("3", "5")
    odd = """it's $HOME "`"""
    assert bench(REPORT, "--runner-arguments", f"--p {{prompt}} --odd {shlex.quote(odd)}")[0] == 0
    assert (phone / STORAGE / "given").read_text().splitlines()[2:] == ["--odd", odd]


def test_prompts_are_as_long_as_they_should_be(bundle: Path) -> None:
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    found = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in make_prompts(bundle, [16, 300])]
    assert found == pytest.approx([16, 300], abs=2)


def test_executorchs_own_runner(executorch_bundle: Path, phone: Path, tmp_path: Path) -> None:
    """The real one of the wheel, on the real artifact: it takes the arguments' model, and reports as is expected."""
    runner = write_program(tmp_path / "runner", f'exec {sys.executable} {HERE / "stock_runner.py"} "$@"')
    arguments = ["--prefill", "12", "--context", "12", "--tokens", "4", "--repeats", "1", "--warmup", "0"]
    result = CliRunner().invoke(app, ["bench", str(executorch_bundle), "--device", "adb:fake01", "--runner",
                                      str(runner), "--threads", "1", "--json", *arguments])  # fmt: skip
    assert result.exit_code == 0, result.stderr
    (engine,) = Bench.model_validate_json(result.stdout).engines
    assert engine.text[0].length == pytest.approx(12, abs=2)
    assert engine.text[0].decode and 1 < engine.text[0].decode.median < 1e5
    assert 0 < engine.load.median < 60 and engine.memory.peak.total and engine.memory.peak.total > 1e8
    assert (phone / "gemma4-edge" / executorch_bundle.name / "executorch" / "model.ptd").is_file()


# Files


def test_files_are_sent_once_and_those_of_other_formats_never(bench: Bencher, bundle: Path, phone: Path) -> None:
    code, said, _ = bench()
    assert code == 0 and "4 files sent" in said and SIZE in transfers(phone)
    for name in ("executorch/model.pte", "tokenizer.json", "manifest.json"):
        assert digest(phone / STORAGE / name) == digest(bundle / name)
    assert not (phone / STORAGE / "onnx").exists()
    before = transfers(phone)
    code, said, _ = bench()
    assert code == 0 and "4 files there" in said and transfers(phone) == before


def test_a_transfer_that_was_cut_goes_on(
    bench: Bencher, bundle: Path, phone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = 2**21 + 3
    monkeypatch.setenv("PHONE_CUT", str(cut))
    monkeypatch.setattr("runtime.bench.adb.SETTLE", 0.3)
    code, said, error = bench()
    assert code == 2 and not said and f"{cut} of {SIZE} bytes" in error and "goes on from there" in error
    assert model(phone).stat().st_size == cut
    monkeypatch.delenv("PHONE_CUT")
    code, said, error = bench()
    assert code == 0, error
    assert "1 files resumed" in said and SIZE - cut in transfers(phone) and SIZE not in transfers(phone)
    assert digest(model(phone)) == digest(bundle / "executorch" / "model.pte")


def test_a_byte_that_changed_on_the_phone_is_found(bench: Bencher, bundle: Path, phone: Path) -> None:
    assert bench()[0] == 0
    data = bytearray(model(phone).read_bytes())
    data[SIZE // 2] ^= 1
    model(phone).write_bytes(data)
    code, said, _ = bench()
    assert code == 0 and "3 files there" in said and "1 files sent" in said
    assert digest(model(phone)) == digest(bundle / "executorch" / "model.pte")


@pytest.mark.parametrize("there", [b"of an earlier export", b"longer" * SIZE])
def test_what_is_of_another_export_is_replaced(bench: Bencher, bundle: Path, phone: Path, there: bytes) -> None:
    model(phone).parent.mkdir(parents=True)
    model(phone).write_bytes(there)
    code, said, error = bench()
    assert code == 0 and "files sent" in said, error
    assert digest(model(phone)) == digest(bundle / "executorch" / "model.pte")


def test_damage_on_the_way_is_repaired_once(bench: Bencher, phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(phone).parent.mkdir(parents=True)
    monkeypatch.setenv("PHONE_DAMAGE", "1")
    assert bench()[0] == 0
    assert transfers(phone).count(SIZE) == 2
    model(phone).unlink()
    monkeypatch.setenv("PHONE_DAMAGE", "9")
    code, _, error = bench()
    assert code == 2 and "another sha256" in error and "cable" in error


def test_a_bundle_that_is_damaged_here_is_told_apart(bench: Bencher, bundle: Path) -> None:
    (bundle / "executorch" / "model.pte").write_bytes(b"damaged")
    code, _, error = bench()
    assert code == 2 and "not what the manifest says" in error


def test_bytes_that_arrive_after_adb_has_returned_are_waited_for(
    bench: Bencher, phone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHONE_LAG", "0.2")
    code, said, error = bench()
    assert code == 0 and "4 files sent" in said, error


def test_a_phone_without_room(bench: Bencher, phone: Path) -> None:
    table = "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/block/dm-9 9000 8000 1000 89% /data"
    write_program(phone / "bin" / "df", f"echo '{table}'")
    code, _, error = bench()
    assert code == 2 and "has 1.02 MB free" in error and not (phone / "transfers").exists()


# What goes wrong


@pytest.mark.parametrize(("states", "serial", "reason"), [
    ({}, None, "no phone is attached"),
    ({"a": "device", "b": "device"}, None, r"several phones .* adb:a \(a, b\)"),
    ({"a": "unauthorized"}, None, "accept this computer's key"),
    ({"a": "offline"}, "a", "plug it in again"),
    ({"a": "no permissions (user in plugdev group)"}, None, "udev"),
    ({"a": "recovery"}, None, "is recovery: attach it again"),
    ({"a": "device"}, "b", "no phone 'b' is attached; there are: a"),
])  # fmt: skip
def test_phones_that_cannot_be_used(states: dict[str, str], serial: str | None, reason: str) -> None:
    assert choose_device({"a": "device", "b": "offline"}, "a") == choose_device({"a": "device"}, None) == "a"
    with pytest.raises(UserError, match=reason):
        choose_device(states, serial)


def test_the_list_of_adb_is_read(bench: Bencher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHONE_DEVICES", "fake01 device\nfake02 unauthorized")
    assert "several phones are attached" in bench()[2]
    assert "accept this computer's key" in bench(REPORT, "--device", "adb:fake02")[2]
    assert bench(REPORT, "--device", "adb:fake01")[0] == 0


def test_no_adb(bench: Bencher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, error = bench()
    assert code == 2 and error.count("\n") == 1 and "adb is not on PATH" in error


def test_runners_that_fail_or_say_nothing(bench: Bencher) -> None:
    for report, status, reason in [
        ("Failed to load model", 3, r"ended with code 3 on the phone \(Failed to load model\)"),
        ("hello", 0, r"no line PyTorchObserver \(hello\)"),
        ({"prompt_tokens": 1}, 0, "not as expected"),
        ("PyTorchObserver {cut", 0, "is it cut short"),
    ]:
        code, said, error = bench(report, code=status)
        assert code == 2 and not said and error.count("\n") == 1
        with pytest.raises(UserError, match=reason):
            raise UserError(error)
    assert "there are {model}" in bench(REPORT, "--runner-arguments", "--path {modell}")[2]


def test_what_is_missing_here(bench: Bencher, bundle: Path) -> None:
    assert "is no file: name a runner" in bench(REPORT, "--runner", "nowhere")[2]
    (bundle / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in bench()[2]


def test_a_model_that_was_loaded_before_is_timed_by_what_is_left() -> None:
    """Multimodal runners say nothing of a load that came before: 3 s in all, 0.6 of them inference."""
    report = REPORT | {"model_load_start_ms": 0, "model_load_end_ms": 0}
    memory = "VmHWM: 9 kB\nRssAnon: 4 kB\nRssFile: 3 kB\nRssShmem: 1 kB\nThreads: 5\n"
    run = read_run(f"{memory}{memory}ended 0 7000000000 10000000000\nPyTorchObserver {json.dumps(report)}\n")
    assert run.load == pytest.approx(2.4) and run.threads == 5 and len(run.samples) == 2
    assert run.samples[0].anonymous == 4096 and run.samples[0].file == 4096 and run.samples[0].peak == 9 * 1024
