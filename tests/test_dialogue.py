"""The chat template as pieces of text: found, proven, and left out where a template says more than they can."""

from collections.abc import Callable
from pathlib import Path

import pytest

from export.dialogue import describe
from export.facts import tokens
from runtime.checks.dialogue import differing
from runtime.dialogue import build_prompt, expand
from runtime.manifest import Dialogue, Marks
from runtime.prompt import Prompter, user

Described = tuple[Dialogue | None, dict[str, str]]


def described(folder: Path) -> Described:
    return describe(Prompter(folder), tokens(folder))


@pytest.fixture(scope="module")
def dialogue(tiny_checkpoint: Path) -> Dialogue:
    found, undescribed = described(tiny_checkpoint)
    assert found and found.tools and not undescribed
    return found


def test_pieces_are_those_of_the_template(dialogue: Dialogue) -> None:
    assert dialogue.turns["user"] == Marks(begin="<|turn>user\n", end="<turn|>\n")
    assert dialogue.begin == "<bos>" and dialogue.thinking == "<|think|>\n" and dialogue.trimmed
    assert list(dialogue.media) == ["image", "audio", "video"]


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "chat_template.jinja"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("model\\n' }}{%- endif -%}\n", "model\\n<|channel>' }}{%- endif -%}\n", "<|turn>model\n<|channel>"),
        ("'<|turn>model\\n' }}", "'<|turn>model\\n' + ('' if think else '<|channel>thought\\n<channel|>') }}",
         "<|turn>model\n<|channel>thought\n<channel|>"),
    ],
)  # fmt: skip
def test_another_template_has_other_pieces(checkpoint_copy: Path, old: str, new: str, expected: str) -> None:
    """The published one of larger models opens and closes a thought where thinking is off."""
    change(checkpoint_copy, old, new)
    found, undescribed = described(checkpoint_copy)
    assert found and found.generation == expected and not undescribed


@pytest.mark.parametrize(
    "old, new, part, reason",
    [
        ("{{- bos_token -}}", "{{- bos_token -}}{{ messages | length }}", "all", "'<bos>3' is not before all of"),
        ("item['text'] | trim }}", "item['text'] | trim | capitalize }}", "all", "not write 'WORDU' out"),
        ("'<|turn>' + role", "'<|turn>' + role + ('' if loop.index < 4 else '!')", "all", "three turns"),
        ("declaration:'", "declaration:' + (tools | length | string)", "tools", "conversations"),
        ("call:'", "called:'", "tools", "replies are not read by"),
    ],
)
def test_what_pieces_cannot_say_is_left_out(checkpoint_copy: Path, old: str, new: str, part: str, reason: str) -> None:
    change(checkpoint_copy, old, new)
    found, undescribed = described(checkpoint_copy)
    assert list(undescribed) == [part] and reason in undescribed[part], undescribed
    assert (found is None) == (part == "all") and (found is None or found.tools is None)


SPOIL: dict[str, Callable[[Dialogue], dict[str, object]]] = {
    "begin": lambda dialogue: {"begin": ""},
    "turns": lambda dialogue: {"turns": {**dialogue.turns, "model": dialogue.turns["user"]}},
    "thinking": lambda dialogue: {"thinking": "<|think|>"},
    "generation": lambda dialogue: {"generation": ""},
    "trimmed": lambda dialogue: {"trimmed": False},
    "thought": lambda dialogue: {"thought": None},
    "media": lambda dialogue: {"media": {**dialogue.media, "audio": dialogue.media["image"]}},
    "tools": lambda dialogue: {"tools": dialogue.tools and dialogue.tools.model_copy(update={"quote": '"'})},
}


@pytest.mark.parametrize("field", SPOIL)
def test_control_every_wrong_piece_is_seen(tiny_checkpoint: Path, dialogue: Dialogue, field: str) -> None:
    prompter = Prompter(tiny_checkpoint)
    assert not list(differing(prompter, dialogue))
    assert list(differing(prompter, dialogue.model_copy(update=SPOIL[field](dialogue))))


def test_media_and_placeholders_must_agree(dialogue: Dialogue) -> None:
    text = build_prompt(dialogue, user("What?", images=["a.png"]))
    assert expand(dialogue, text, {"image": [2]}).count("<|image|>") == 2
    with pytest.raises(ValueError, match="2 of image, 1 placeholders"):
        expand(dialogue, text, {"image": [2, 2]})


def test_tools_that_are_not_described_are_refused(dialogue: Dialogue) -> None:
    with pytest.raises(ValueError, match="no tools"):
        build_prompt(dialogue.model_copy(update={"tools": None}), user("Hi"), [{"name": "clock"}])
