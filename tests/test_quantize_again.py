"""A quantized checkpoint that is there already, or nearly: what is made again, and what only follows its source."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export import checkpoint, folders
from export import quantize as quantizer
from export.calibration.corpus import open_corpus
from export.checkpoint import CheckpointWeights, QuantizationRecord
from export.plan import CALIBRATED, make_plan, reading, start_or_resume
from export.quantize import quantize
from export.recipes import RECIPES
from export.sources import open_source
from runtime.errors import UserError
from runtime.manifest import RECORD
from tests import random_models as models

BESIDE = {"chat_template.jinja": "first", "generation_config.json": "{}", "tokenizer.json": "{}", "README.md": "first"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Nobody reads the tokenizer of a recipe that does not calibrate."""
    folder = models.save(models.random_model(models.random_config()), tmp_path / "source")
    for name, text in BESIDE.items():
        (folder / name).write_text(text)
    return folder


def run(source: Path, out: Path, recipe: str = "int4", name: str = "random") -> QuantizationRecord:
    return quantize(open_source(source), RECIPES[recipe], name, out)


def weights_of(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


# What lies beside the weights


def test_files_beside_the_weights_follow_the_source(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(source, out)
    written = weights_of(out)
    (source / "chat_template.jinja").write_text("again")  # as long as it was
    (source / "generation_config.json").write_text('{"top_k": 5}')
    (source / "README.md").unlink()
    (source / "processor_config.json").write_text("{}")
    run(source, out)
    assert (out / "chat_template.jinja").read_text() == "again"
    assert json.loads((out / "generation_config.json").read_text()) == {"top_k": 5}
    assert (out / "processor_config.json").exists() and not (out / "README.md").exists()
    assert weights_of(out) == written, "the weights are not made again"
    assert CheckpointWeights(out).packed("model.language_model.embed_tokens.weight") is not None
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_the_record_follows_a_source_that_moved(source: Path, tmp_path: Path) -> None:
    """As a snapshot of the hub of a later revision, whose weights are the very files."""
    first, out = run(source, tmp_path / "out"), tmp_path / "out"
    later = tmp_path / "snapshots" / ("ab" * 20)
    shutil.copytree(source, later)
    (later / "README.md").write_text("---\nlicense: other\n---")
    written = weights_of(out)
    second = run(later, out, name="renamed")
    assert (second.source.revision, second.source.name, second.source.licence) == ("ab" * 20, "renamed", "other")
    assert second.source_path == str(later) and second.source.sha256 == first.source.sha256
    assert checkpoint.read_record(out) == second and weights_of(out) == written
    assert first.source.revision is None and first.source_path == str(source), "control"


def test_nothing_is_written_where_nothing_changed(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    run(source, tmp_path / "out")
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


def test_a_copy_that_fails_leaves_the_file_that_was_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, tmp_path / "out")
    (source / "chat_template.jinja").write_text("again")

    def half(path: Path, to: Path) -> None:
        to.write_bytes(path.read_bytes()[:2])
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.shutil, "copyfile", half)
        with pytest.raises(OSError, match="full"):
            run(source, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "first"
    run(source, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "again"


@pytest.mark.parametrize(
    ("name", "counts"),
    [("tokenizer.json", True), ("tokenizer_config.json", True), ("tokenizer.model", True),
     ("processor_config.json", True), ("preprocessor_config.json", True), ("special_tokens_map.json", True),
     ("chat_template.jinja", False), ("README.md", False)],
)  # fmt: skip
def test_what_calibration_read_through_is_of_the_plan(source: Path, name: str, counts: bool) -> None:
    """And of that of no other recipe."""

    def plans() -> list[dict[str, Any]]:
        opened = open_source(source)
        return [make_plan(opened, RECIPES["int4-gptq"], open_corpus(None), None),
                make_plan(opened, RECIPES["int4"], None, None)]  # fmt: skip

    before = plans()
    assert plans() == before, "control"
    (source / name).write_text('{"other": 1}')
    assert [one != other for one, other in zip(plans(), before, strict=True)] == [counts, False]


def test_where_texts_begin_is_of_the_plan(source: Path) -> None:
    before = reading(source)
    (source / "generation_config.json").write_text('{"top_k": 5}')
    assert reading(source) == before
    (source / "generation_config.json").write_text('{"bos_token_id": 7}')
    assert reading(source) != before


def test_a_template_within_a_configuration_is_not_of_the_plan(source: Path) -> None:
    """As in releases that have no file of it."""
    found = []
    for settings in ({"add_bos_token": True}, {"add_bos_token": True, "chat_template": "{{ mended }}"},
                     {"add_bos_token": True, "bos_token": None}, {"add_bos_token": False}):  # fmt: skip
        (source / "tokenizer_config.json").write_text(json.dumps(settings))
        found.append(reading(source))
    assert found[0] == found[1]
    assert found[0] not in found[2:] and found[2] != found[3], "control: all else counts"


@pytest.mark.parametrize(
    ("name", "text"),
    [("tokenizer.json", '{"other": 1}'), ("generation_config.json", '{"bos_token_id": 7}'), ("config.json", None)],
)
def test_a_calibration_that_is_dropped_is_told_with_what_changed(
    source: Path, tmp_path: Path, name: str, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    def begin() -> str:
        start_or_resume(partial, make_plan(open_source(source), RECIPES["int4-gptq"], open_corpus(None), None))
        return capsys.readouterr().err

    partial = tmp_path / ".out.partial"
    assert begin() == ""
    (partial / CALIBRATED).mkdir()
    assert begin() == "" and (partial / CALIBRATED).exists(), "control: nothing changed"
    (source / name).write_text(text or (source / name).read_text() + " ")
    told = {"generation_config.json": "bos_token_id", "config.json": "config.json or a file of weights"}.get(name, name)
    assert f"is of another state of {told}; MODEL=id@revision" in begin() and not (partial / CALIBRATED).exists()
    (source / "tokenizer.json").write_text("{}  ")
    assert begin() == "", "control: there was nothing that took long"


# Kills


class Killed(BaseException):
    """In place of SIGKILL: nobody catches it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Before the operation of this number of those that `quantize` ends with: removing, renaming."""
    left = [step]

    def counted(work: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return work(*arguments, **options)

        return counting

    for owner, name in ((Path, "rename"), (Path, "unlink"), (folders.shutil, "rmtree")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


def kill_while_ending(source: Path, out: Path, step: int) -> bool:
    """Whether there is a step of this number; calibration had left something."""
    finish = quantizer._finish

    def finish_then_die(*arguments: Any) -> None:
        (arguments[-1] / quantizer.CALIBRATED).mkdir()
        (arguments[-1] / quantizer.CALIBRATED / "layer").write_text("hours")
        finish(*arguments)
        kill_at(monkeypatch, step)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(quantizer, "_finish", finish_then_die)
        try:
            run(source, out)
        except Killed:
            return True
    return False


def test_a_kill_at_the_end_costs_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever step it comes before, the next run does no work and ends with the same."""
    wanted = run(source, tmp_path / "wanted")
    steps = 0
    while kill_while_ending(source, out := tmp_path / f"out-{steps}", steps):
        with monkeypatch.context() as patched:
            patched.setattr(quantizer, "_make", lambda *arguments: pytest.fail("it is made again"))
            assert run(source, out) == wanted
        assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "wanted").iterdir()}
        assert not [path for path in tmp_path.glob(f".{out.name}.*") if path.suffix != ".lock"]
        steps += 1
    assert steps >= 5, "control: a shard's mark, the plan, what calibration left, two of the renaming"


def test_control_work_without_its_record_is_not_done(source: Path, tmp_path: Path) -> None:
    assert kill_while_ending(source, tmp_path / "out", 0)
    (tmp_path / ".out.partial" / RECORD).unlink()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quantizer, "_make", lambda *arguments: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            run(source, tmp_path / "out")


def test_work_that_was_being_dropped_is_not_taken_up(source: Path, tmp_path: Path) -> None:
    """Finished by one plan, half removed by another, whose run was killed."""
    assert kill_while_ending(source, tmp_path / "out", 0)
    partial = tmp_path / ".out.partial"

    def half(folder: Path, ignore_errors: bool = False) -> None:
        next(Path(folder).glob("model-*")).unlink()
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(quantizer.shutil, "rmtree", half)
        with pytest.raises(Killed):
            run(source, tmp_path / "out", "int8")
    assert partial.exists() and not list(partial.glob("model-*"))
    assert run(source, tmp_path / "out").tensors and weights_of(tmp_path / "out")


def test_another_run_is_not_disturbed(source: Path, tmp_path: Path) -> None:
    """Nor does it disturb: files are refreshed by one at a time."""
    run(source, tmp_path / "out")
    (source / "chat_template.jinja").write_text("again")
    with folders.locked(tmp_path / "out"), pytest.raises(UserError, match="another run is writing"):
        run(source, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "first"


def test_room_that_an_interrupted_run_took_is_not_asked_for_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when all weights were written, on a disk that they have filled."""
    assert kill_while_ending(source, tmp_path / "out", 0)
    (tmp_path / ".out.partial" / RECORD).unlink()
    monkeypatch.setattr("export.folders.shutil.disk_usage", lambda path: type("usage", (), {"free": 0}))
    with pytest.raises(UserError, match="the quantized checkpoint needs"):
        run(source, tmp_path / "other")
    assert run(source, tmp_path / "out").tensors
