"""Goldens written, read and compared, with a scripted engine in place of a real one."""

import json
from pathlib import Path

import numpy as np
import pytest

from runtime import goldens, greedy, metrics
from runtime.errors import UserError
from runtime.goldens import Golden
from runtime.manifest import Tokens
from runtime.sessions.base import Logits, ModelInputs

VOCABULARY = 40
TOKENS = Tokens(bos=2, eos=[1], pad=0, suppress=[9], image=None, audio=None, video=None, begin_image=None,
                end_image=None, begin_audio=None, end_audio=None)  # fmt: skip


class Scripted:
    """A session whose logits come from a list, step by step."""

    name = "scripted"

    def __init__(self, logits: np.ndarray) -> None:
        self.logits = logits
        self.reset()

    def reset(self) -> None:
        self.position = self.step = 0
        self.fed: list[int] = []

    def prefill(self, inputs: ModelInputs) -> Logits:
        self.fed += inputs.input_ids.tolist()
        self.step += 1
        return self.logits[self.step - 1]

    def decode(self, token: int) -> Logits:
        return self.prefill(ModelInputs(np.array([token])))


@pytest.fixture
def logits() -> np.ndarray:
    """Four steps that choose 7, 8 (9 is suppressed), 5 and then the end, 1."""
    found = np.random.default_rng(0).normal(size=(5, VOCABULARY)).astype(np.float32)
    for step, token in enumerate([7, 9, 5, 1, 3]):
        found[step, token] = 8
    found[1, 8] = 6
    return found


@pytest.fixture
def golden(logits: np.ndarray) -> Golden:
    inputs = ModelInputs(np.array([2, 4, 6]), np.ones((1, 2, 3), np.float32), np.zeros((1, 2, 2), np.int64))
    ids, values = metrics.top_k(logits[:4], goldens.TOP)
    gaps = metrics.top_gaps(greedy.suppress(logits[:4], [9])).tolist()
    messages = [{"role": "user", "content": [{"type": "text", "text": "Grüße"}]}]
    return Golden("a", "image", messages, "<bos>Grüße", inputs, [7, 8, 5, 1], gaps, ids, values)


def test_greedy_tokens_stop_at_the_turns_end(logits: np.ndarray) -> None:
    session = Scripted(logits)
    text = greedy.generate(session, ModelInputs(np.array([2, 4])), TOKENS, 10)
    assert text.chosen == [7, 8, 5, 1] and np.array_equal(text.logits, logits[:4])
    assert session.fed == [2, 4, 7, 8, 5]


def test_files_hold_everything(golden: Golden, tmp_path: Path) -> None:
    (tmp_path / goldens.FOLDER).mkdir()
    entry = goldens.write(golden, tmp_path)
    again = goldens.read(entry, tmp_path)
    assert (again.tokens, again.text, again.messages) == (golden.tokens, golden.text, golden.messages)
    assert np.allclose(again.gaps, golden.gaps, atol=1e-4)
    for name, array in golden.inputs.arrays().items():
        assert np.array_equal(again.inputs.arrays()[name], array)
    assert np.array_equal(again.top_ids, golden.top_ids) and np.array_equal(again.top_logits, golden.top_logits)
    assert json.loads((tmp_path / entry.file).read_text())["tokens"] == golden.tokens


def test_an_equal_engine_passes(golden: Golden, logits: np.ndarray) -> None:
    found = goldens.compare(golden, Scripted(logits), TOKENS.suppress, near_tie=0.1)
    assert found.greedy.equal and not found.greedy.near_ties and found.rms == 0 and found.kl.max() < 1e-12


def test_another_token_is_found(golden: Golden, logits: np.ndarray) -> None:
    logits[2, 30] = 9
    found = goldens.compare(golden, Scripted(logits), TOKENS.suppress, near_tie=0.1)
    assert found.greedy.errors == (2,)


def test_a_near_tie_excuses(golden: Golden, logits: np.ndarray) -> None:
    logits[2, 30] = 9
    golden.gaps[2] = 0.05
    found = goldens.compare(golden, Scripted(logits), TOKENS.suppress, near_tie=0.1)
    assert found.greedy.equal and found.greedy.near_ties == (2,)


@pytest.mark.parametrize("damage", ["json", "tensors", "absent"])
def test_damaged_files_are_named(golden: Golden, tmp_path: Path, damage: str) -> None:
    (tmp_path / goldens.FOLDER).mkdir()
    entry = goldens.write(golden, tmp_path)
    if damage == "absent":
        (tmp_path / entry.file).unlink()
    else:
        path = tmp_path / (entry.file if damage == "json" else entry.tensors)
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"goldens/a\.json"):
        goldens.read(entry, tmp_path)


@pytest.mark.parametrize("window", [16, 128, 1024])
def test_the_long_prompt_is_longer_than_the_window(window: int) -> None:
    prompts = goldens.default_prompts(window, [Path("x/boot.png")], [Path("seven.wav")])
    assert [prompt.modality for prompt in prompts] == ["text", "image", "audio", "long"]
    text = prompts[-1].messages[0]["content"][-1]["text"]
    assert len(text.split()) > window


def test_media_are_copied_beside_the_golden(tmp_path: Path) -> None:
    (tmp_path / "boot.png").write_bytes(b"pixels")
    (tmp_path / "out").mkdir()
    prompts = goldens.default_prompts(4, [tmp_path / "boot.png"])
    messages = goldens._copy_media(prompts[1].messages, tmp_path / "out")
    assert messages[0]["content"][0]["path"] == "boot.png" and (tmp_path / "out/boot.png").read_bytes() == b"pixels"
