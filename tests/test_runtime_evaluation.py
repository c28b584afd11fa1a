"""Held-out data as it lies in a folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from runtime.errors import UserError
from runtime.evaluation import read_evaluation

FACTS = {
    "text": {"file": "text.txt"},
    "images": {"file": "images.png", "tile": 2, "columns": 2, "question": "What?", "answers": ["a", "b", "c"]},
    "audio": {"question": "Which?", "clips": [{"file": "one.flac", "answer": "one"}]},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "heldout.json").write_text(json.dumps(FACTS))
    (tmp_path / "text.txt").write_text("First.\n\nSecond,\nlonger.\n")
    tiles = np.arange(4, dtype=np.uint8).reshape(2, 1, 2, 1) * np.ones((1, 2, 1, 2), np.uint8)
    Image.fromarray(tiles.reshape(4, 4)).save(tmp_path / "images.png")
    soundfile.write(tmp_path / "one.flac", np.zeros(30, np.float32), 16_000)
    return tmp_path


def test_everything_is_read(folder: Path) -> None:
    found = read_evaluation(folder, 16_000)
    assert found.texts == ["First.", "Second,\nlonger."]
    assert [question.answer for question in found.images] == ["a", "b", "c"]
    assert [np.unique(question.medium).tolist() for question in found.images] == [[0], [1], [2]]
    assert [(clip.text, clip.answer, clip.medium.shape) for clip in found.clips] == [("Which?", "one", (30,))]


@pytest.mark.parametrize("name", ["heldout.json", "text.txt", "images.png", "one.flac"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read_evaluation(folder, 16_000)
