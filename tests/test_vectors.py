"""Vectors for the apps: written the same each time, small, and held to what they are vectors of."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.bench.result import Bench
from runtime.dialogue import build_prompt, expand
from runtime.manifest import FILE, Dialogue, Host
from runtime.reply import Reader
from runtime.report.page import write_report
from tests.vectors.__main__ import TOPICS, write_vectors
from tests.vectors.tiny import prompter

LARGEST = 8 << 20  # bytes of a file; pictures are most


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("vectors")
    write_vectors(made)
    return made


def read(folder: Path, topic: str) -> dict[str, Any]:
    return json.loads((folder / f"{topic}.json").read_text(encoding="utf-8"))


def test_every_topic_is_written_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    write_vectors(tmp_path)
    assert {path.stem for path in folder.iterdir()} == set(TOPICS)
    for path in folder.iterdir():
        same = same_pictures if path.stem == "images" else dict.__eq__
        assert same(read(folder, path.stem), read(tmp_path, path.stem)) and path.stat().st_size < LARGEST
        assert len(read(folder, path.stem)["about"]) > 40


def same_pictures(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """But for one level of 255: torchvision does not resize to the same bytes each time."""
    pairs = list(zip(first["cases"], second["cases"], strict=True))
    resized = [[np.frombuffer(b64decode(case["patches"]), np.uint8).astype(int) for case in pair] for pair in pairs]
    return all(one | {"patches": ""} == other | {"patches": ""} for one, other in pairs) and all(
        one.shape == other.shape and abs(one - other).max() <= 1 for one, other in resized
    )


def wrong_prompts(folder: Path, dialogue: Dialogue) -> list[str]:
    """Names of conversations that an app would build another prompt of."""
    cases = read(folder, "prompts")["conversations"]
    return [case["name"] for case in cases
            if build_prompt(dialogue, case["messages"], case["tools"], case["think"]) != case["prompt"]]  # fmt: skip


def test_prompts_are_built_and_written_out(folder: Path) -> None:
    found = read(folder, "prompts")
    dialogue = Dialogue.model_validate(found["dialogue"])
    assert not wrong_prompts(folder, dialogue)
    for case in found["media"]:
        text = expand(dialogue, case["prompt"], {case["kind"]: case["soft_tokens"]})
        assert prompter().encode(text).tolist() == case["ids"]


def test_control_another_piece_makes_other_prompts(folder: Path) -> None:
    dialogue = Dialogue.model_validate(read(folder, "prompts")["dialogue"])
    assert wrong_prompts(folder, dialogue.model_copy(update={"generation": "<|turn>model"}))


def test_control_another_token_makes_other_pieces(folder: Path) -> None:
    case = next(case for case in read(folder, "streams")["tokens"] if case["name"] == "other scripts")

    def pieces(ids: list[int]) -> list[list[list[str]]]:
        reader = Reader(prompter().processor.tokenizer)
        return [[[piece.kind, piece.text] for piece in reader.add(token)] for token in ids]

    assert pieces(case["ids"]) == case["pieces"]
    assert pieces(case["ids"][1:]) != case["pieces"][1:]


def test_every_bad_manifest_names_its_fault(folder: Path) -> None:
    found = read(folder, "manifests")
    assert len(found["good"]) == 6 and len(found["bad"]) > 60
    assert all(case["error"].startswith("bundle") and "\n" not in case["error"] for case in found["bad"])


def test_goldens_pass_and_fail(folder: Path) -> None:
    passed = {case["name"]: case["passed"] for case in read(folder, "goldens")["cases"]}
    assert passed == {"equal": True, "rounded": True, "another token in a near tie": True, "another token": False,
                      "noise": False, "another scale": False, "steps exchanged": False}  # fmt: skip


def test_downloads_end_in_each_way(folder: Path) -> None:
    assert {case["then"] for case in read(folder, "downloads")["cases"]} == {"done", "continue", "begin again"}


def test_coreml_scripts_wrap_rings_and_pad(folder: Path) -> None:
    found = read(folder, "coreml")
    ring = Host.model_validate(found["host"]).attention["sliding"].slots
    calls = [call for script in found["scripts"] for call in script["calls"]]
    assert any(call["start"] // ring != (call["start"] + call["count"] - 1) // ring for call in calls)
    assert any(call["count"] < call["length"] for call in calls)
    assert {call["function"] for call in calls} == {"decode", "prefill"}
    assert all(np.isfinite(call["inputs"]["full"]["cos"]).all() for call in calls)


def test_the_report_reads_the_bench_of_an_app(folder: Path, tmp_path: Path) -> None:
    found = read(folder, "bench")
    bundle = tmp_path / found["bundle"]
    bundle.mkdir()
    (bundle / FILE).write_text(json.dumps(found["manifest"]))
    (tmp_path / "bench.json").write_text(json.dumps(found["bench"]))
    path, _ = write_report(bundle, tmp_path / "page.html", bench=tmp_path / "bench.json")
    page = path.read_text()
    bench = Bench.model_validate(found["bench"])
    assert bench.machine.name in page and "thermal state: nominal" in page and "not in this app" in page
