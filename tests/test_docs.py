"""The developer guide is true: its commands run and its error lines come up.

Exports are taken from the command line to the order of work; the artifacts that they ask for must be among those that
the other tests export for real. Everything else runs as it stands, in a folder with a bundle where the guide has it.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from optimum.commands import optimum_cli
from typer.testing import CliRunner, Result

import export.__main__
import export.pipeline
import runtime.__main__
import runtime.baseline
from export.formats import choose_formats, require_supported
from export.models import model_name
from export.pipeline import Request, Summary, chosen_recipe
from export.recipes import RECIPES, TARGETS
from runtime.errors import UserError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"```sh\n(?P<commands>.*?)```(?:\n```text\n(?P<told>.*?)```)?", re.DOTALL)
# By other tests, or in the layout of what they export: codes of int4-gptq are other numbers than those of int4.
EXPORTED = {(recipe, "onnx") for recipe in RECIPES} | {(recipe, "executorch") for recipe in ("int4", "int4-gptq")}
EXPORTED |= {("int4", "coreml")}
HUB = "google/"  # not reachable from every machine


@dataclass(frozen=True)
class Example:
    """A command of the guide."""

    command: str
    told: str | None  # on stderr, where it is about an error


def examples() -> Iterator[Example]:
    for path in sorted(DOCS.glob("*.md")):
        for block in BLOCK.finditer(path.read_text()):
            for line in block["commands"].splitlines():
                yield Example(line, block["told"] and block["told"].strip())


@pytest.fixture
def workplace(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Looks like the repository after an export; what is written there does not reach the exports of other tests."""
    for name in ("desktop", "android"):
        (tmp_path / "dist" / name).mkdir(parents=True)
    shutil.copytree(exported / "dist/desktop/tiny-int4", tmp_path / "dist/desktop/tiny-int4", copy_function=os.link)
    (tmp_path / "build").symlink_to(exported / "build")
    (tmp_path / "export").symlink_to(ROOT / "export")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.command)
def test_command(example: Example, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.pipeline, "export", order_only)
    monkeypatch.setattr(runtime.baseline, "_why_no_race", lambda old, new: "the machine that tests is busy")
    result = run(shlex.split(example.command))
    if example.told is None:
        assert result.exit_code == 0, result.output
    else:
        assert result.exit_code == 2 and example.told in " ".join(result.stderr.split()), result.stderr


def order_only(request: Request) -> Summary:
    """Refuses what an export refuses, and takes what tests export.

    Raises:
        UserError: as `export.pipeline.export`.
    """
    formats, recipe = choose_formats(request.target, request.formats), chosen_recipe(request)
    require_supported(recipe, formats)
    if not request.model.startswith(HUB):
        export.pipeline.open_checkpoint(export.pipeline.find_model(request.model))
    assert {(recipe.name, name) for name in formats} <= EXPORTED, "no test makes such an artifact"
    return Summary(bundle="", bytes=0, bits_per_weight=0, rounding_error=0, plain_rounding_error=0, minimum_memory=0,
                   grid={}, gates_held=0, compared=True, skipped={}, seconds=0)  # fmt: skip


def run(words: list[str]) -> Result:
    if words[0] == "make":
        words = expand(words)
    if words[0] == "optimum-cli":
        return run_optimum(words)
    assert words[:2] == ["python", "-m"], f"a command of another kind: {words}"
    app = {"export": export.__main__.app, "runtime": runtime.__main__.app}[words[2]]
    return CliRunner().invoke(app, words[3:])


def expand(words: list[str]) -> list[str]:
    """What make would run after it set up the environment."""
    lines = subprocess.run([*words, "-n"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    (line,) = (line for line in lines if re.search(r"-m (export|runtime) ", line))
    return ["python", *shlex.split(line)[1:]]


def run_optimum(words: list[str]) -> Result:
    """In this process, where its exports too are taken to the order of work; `test_export.py` runs it for real."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", words)
        optimum_cli.main()
    code = ended.value.code or 0
    assert isinstance(code, int)
    return Result(CliRunner(), b"", b"", b"", None, code, None)


def test_there_are_commands_and_none_is_missed() -> None:
    """Whatever looks like a command stands in a block that is run."""
    found = {example.command for example in examples()}
    for path in DOCS.glob("*.md"):
        lines = (line.strip() for line in path.read_text().splitlines())
        assert {line for line in lines if re.match(r"(make|python -m|optimum-cli) ", line)} <= found, path
    assert len(found) > 20


def test_control_an_error_line_that_never_comes_up(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for told, missed in (("there is no such line", "there is no such line"), (None, "== 0")):
        with pytest.raises(AssertionError, match=missed):
            test_command(Example("python -m runtime verify dist/nowhere", told), workplace, monkeypatch)


def test_an_export_that_no_test_makes_is_seen(workplace: Path) -> None:
    request = Request("ios", "tiny", "int8", ["coreml"], 8192, False, Path("build"), Path("dist"), [])
    with pytest.raises(AssertionError, match="no test makes"):
        order_only(request)
    with pytest.raises(UserError, match="no model"):
        order_only(Request("ios", "no/such/one", "int4", [], 8192, False, Path("build"), Path("dist"), []))


@pytest.mark.parametrize("model", ["tiny", "google/gemma-4-12B-it", "some/folder/", "some/gemma.q4_0.gguf"])
def test_make_looks_where_the_export_writes(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "gemma.q4_0.gguf").touch()
    words = expand(["make", "verify", f"MODEL={model}", "RECIPE=int4"])
    assert words[4] == f"dist/android/{model_name(model)}-int4"


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_each_targets_recipe(target: str) -> None:
    """It needs the name for the folder of `make verify`."""
    words = expand(["make", "export", f"TARGET={target}"])
    assert words[words.index("--recipe") + 1] == TARGETS[target].recipe
