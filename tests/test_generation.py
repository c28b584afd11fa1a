"""Ids that end a turn: whichever file states them, every artifact is told those that transformers goes by."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, GenerationConfig

import export.lowering.executorch_program as executorch_program
from export.config import read_model
from export.facts import sampling, tokens
from export.lowering.onnx_genai import CONFIG_FILE, write_genai_files
from export.lowering.torch_modules import Sizes

ABSENT = object()
# of config.json, and of its text_config
PLACES = [(top, text) for top in (ABSENT, None, 6, [1, 6]) for text in (ABSENT, None, 1, [1, 9])]


@pytest.fixture
def folder(checkpoint_copy: Path) -> Path:
    """Without generation defaults."""
    (checkpoint_copy / "generation_config.json").unlink()
    return checkpoint_copy


def state(folder: Path, top: Any, text: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    for place, value in ((config, top), (config["text_config"], text)):
        place.pop("eos_token_id", None)
        place.update({} if value is ABSENT else {"eos_token_id": value})
    (folder / "config.json").write_text(json.dumps(config))


def by_artifact(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """What ends a turn to the manifest, to onnxruntime-genai and to ExecuTorch's runner."""
    model, made = read_model(AutoConfig.from_pretrained(folder)), tmp_path / "made"
    made.mkdir()
    write_genai_files(model, folder, made, 128)
    constants: dict[str, Any] = {}
    monkeypatch.setattr(executorch_program, "lower_streamed", lambda *given: constants.update(given[3]))
    monkeypatch.setattr(executorch_program, "write", lambda *_: None)
    weights: Any = None
    executorch_program.write_executorch(model, weights, folder, made, Sizes(128, 16, 16, 16))
    for path in folder.glob("*config.json"):
        shutil.copyfile(path, made / path.name)  # a bundle has them beside its manifest
    genai = json.loads((made / CONFIG_FILE).read_text())["model"]["eos_token_id"]
    return {"manifest": tokens(made).eos, "genai": genai, "executorch": constants["get_eos_ids"]}


@pytest.mark.parametrize("top, text", PLACES)
def test_ends_are_those_of_transformers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top: Any, text: Any
) -> None:
    state(folder, top, text)
    wanted = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder)).eos_token_id
    wanted = [1] if wanted is None else wanted if isinstance(wanted, list) else [wanted]
    assert set(map(tuple, by_artifact(folder, tmp_path, monkeypatch).values())) == {tuple(wanted)}


def test_control_the_tiny_states_its_turn_in_one_place(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads its text_config alone goes on for ever."""
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"]["eos_token_id"] == 1 and config["eos_token_id"] == [1, 6]
    assert list(by_artifact(folder, tmp_path, monkeypatch).values()) == [[1, 6]] * 3


@pytest.mark.parametrize("stated, wanted", [([1, 6, 21], [1, 6, 21]), (21, [21]), (None, [1, 6])])
def test_generation_defaults_come_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: Any, wanted: list[int]
) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stated, "bos_token_id": 5}))
    assert list(by_artifact(folder, tmp_path, monkeypatch).values()) == [wanted] * 3
    assert (tokens(folder).bos, tokens(folder).pad) == (5, 0)


def test_null_states_nothing(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"top_k": null, "bos_token_id": null, "do_sample": true}')
    assert (sampling(folder).top_k, sampling(folder).do_sample, tokens(folder).bos) == (64, True, 2)
