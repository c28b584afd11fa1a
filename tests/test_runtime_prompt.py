"""Prompts by the checkpoint's own template and processor, and how they are cut into steps."""

from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runtime.errors import UserError
from runtime.prompt import (
    MediaTokens,
    Prompter,
    append,
    media_paths,
    read_audio,
    read_image,
    soft_tokens,
    split,
    user,
    with_paths,
)
from runtime.sessions.base import ModelInputs

MEDIA = MediaTokens(image=1000, audio=1001)
ROWS = 6  # of each image or clip, padding included

pieces = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.integers(1, 9)),
        st.tuples(st.sampled_from(["image", "audio"]), st.integers(1, ROWS)),
    ),
    min_size=1,
    max_size=8,
)


def sequence(parts: list[tuple[str, int]]) -> ModelInputs:
    """Text, images and clips of so many positions; each medium's values are its number in order."""
    ids = [token for kind, length in parts for token in repeat({"image": 1000, "audio": 1001}.get(kind, 5), length)]
    images, clips = ([length for kind, length in parts if kind == which] for which in ("image", "audio"))
    cells = np.array([[[0, 0]] * n + [[-1, -1]] * (ROWS - n) for n in images], np.int64)
    mask = np.array([[True] * n + [False] * (ROWS - n) for n in clips])
    return ModelInputs(
        np.array(ids, np.int64),
        np.arange(len(images), dtype=np.float32).reshape(-1, 1, 1) if images else None,
        cells if images else None,
        np.arange(len(clips), dtype=np.float32).reshape(-1, 1, 1) if clips else None,
        mask if clips else None,
    )


@given(pieces, st.integers(1, 20))
def test_steps_join_to_the_sequence(parts: list[tuple[str, int]], size: int) -> None:
    whole = sequence(parts)
    steps = split(whole, size, MEDIA)
    for name, array in whole.arrays().items():
        joined = [step.arrays()[name] for step in steps if name in step.arrays()]
        assert np.array_equal(np.concatenate(joined), array)


@given(pieces, st.integers(1, 20))
def test_media_follow_their_placeholders_whole(parts: list[tuple[str, int]], size: int) -> None:
    for step in split(sequence(parts), size, MEDIA):
        assert sum(soft_tokens(step.image_position_ids)) == (step.input_ids == MEDIA.image).sum()
        assert sum(soft_tokens(step.input_features_mask)) == (step.input_ids == MEDIA.audio).sum()


@given(pieces, st.integers(1, 20))
def test_only_a_medium_makes_a_step_too_large(parts: list[tuple[str, int]], size: int) -> None:
    for step in split(sequence(parts), size, MEDIA):
        assert len(step.input_ids) <= size or (len(set(step.input_ids)) == 1 and step.input_ids[0] in (1000, 1001))


def test_steps_may_differ_in_size() -> None:
    steps = split(sequence([("text", 9)]), iter([2, 4, 9]), MEDIA)
    assert [len(step.input_ids) for step in steps] == [2, 4, 3]


def test_appended_tokens_keep_the_media() -> None:
    longer = append(sequence([("image", 3)]), [7, 8])
    assert longer.input_ids.tolist() == [1000] * 3 + [7, 8] and longer.pixel_values is not None


@pytest.fixture(scope="module")
def prompter(tiny_checkpoint: Path) -> Prompter:
    return Prompter(tiny_checkpoint)


@pytest.mark.parametrize(("size", "tokens"), [((384, 384), 64), ((30, 20), 60)])
def test_an_image_becomes_patches(prompter: Prompter, tmp_path: Path, size: tuple[int, int], tokens: int) -> None:
    """Sides are multiples of 48 within the budget of 70 soft tokens, whatever the size of the file."""
    Image.new("L", size, 128).save(tmp_path / "grey.png")
    inputs = prompter(user("What is shown?", images=["grey.png"]), tmp_path).inputs
    assert soft_tokens(inputs.image_position_ids) == [tokens]
    assert (inputs.input_ids == prompter.media.image).sum() == tokens
    assert inputs.pixel_values is not None and inputs.pixel_values.shape == (1, 70, 6912)


def test_sound_becomes_frames(prompter: Prompter, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hum.wav", np.full(1000, 0.25, np.float32), 16_000)
    inputs = prompter(user("What is said?", clips=["hum.wav"]), tmp_path).inputs
    assert (inputs.input_ids == prompter.media.audio).sum() == 2
    assert inputs.input_features is not None and np.allclose(inputs.input_features.reshape(-1)[:1000], 0.25)


def test_text_has_one_bos(prompter: Prompter) -> None:
    rendered = prompter(user("Hello"))
    bos = prompter.encode("<bos>")[0]
    assert (rendered.inputs.input_ids == bos).sum() == 1 and rendered.inputs.input_ids[0] == bos
    assert list(rendered.inputs.arrays()) == ["input_ids"]


def test_paths_change_in_media_alone() -> None:
    messages = [*user("Which?", ["a.png"], ["b.wav"]), {"role": "model", "content": "path"}]
    changed = with_paths(messages, lambda path: f"x/{path}")
    assert media_paths(changed, "image") == ["x/a.png"] and media_paths(changed, "audio") == ["x/b.wav"]
    assert changed[0]["content"][2] == {"type": "text", "text": "Which?"}
    assert media_paths(messages, "image") == ["a.png"]


def test_bad_media_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    soundfile.write(tmp_path / "long.wav", np.zeros(1000, np.float32), 8_000)
    with pytest.raises(UserError, match=r"broken\.png"):
        read_image(tmp_path / "broken.png")
    with pytest.raises(UserError, match=r"absent\.wav"):
        read_audio(tmp_path / "absent.wav", 16_000)
    with pytest.raises(UserError, match=r"long\.wav: more than 0\.1 seconds of sound"):
        read_audio(tmp_path / "long.wav", 16_000, longest=0.1)


def test_a_folder_without_a_processor_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=tmp_path.name):
        Prompter(tmp_path)
