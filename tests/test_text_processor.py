"""Prompts of models that take text only, with the embedded model's tokenizer in place of a text model's."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from export.dialogue import describe
from export.models import EMBEDDED
from runtime.errors import UserError
from runtime.prompt import Prompter, user
from runtime.text_processor import NO_TEMPLATE

SAID = [user("Once upon")[0], {"role": "assistant", "content": " a time"}, user(" there was")[0]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Its tokenizer names a processor that is not there, as published text checkpoints do."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED["tiny"] / name, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"processor_class": "Gemma3Processor"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3_text"}))
    return tmp_path


def test_text_without_a_template_is_continued_over_several_turns(folder: Path) -> None:
    """So the cache of one turn is the beginning of the next."""
    prompter = Prompter(folder)
    assert prompter.render(SAID) == "<bos>Once upon a time there was"
    assert prompter.render(SAID).startswith(prompter.render(SAID[:1]))
    ids = prompter(SAID).inputs.input_ids
    assert ids[0] == prompter.processor.tokenizer.bos_token_id
    assert prompter.decode(list(ids[1:]), special=True) == "Once upon a time there was"


@pytest.mark.parametrize(
    "messages, options",
    [
        ([{"role": "system", "content": "Be brief."}, *SAID], {}),
        (SAID, {"enable_thinking": True}),
        (SAID, {"tools": [{"type": "function", "function": {"name": "weather"}}]}),
    ],
)
def test_more_than_text_is_refused_without_a_template(folder: Path, messages: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="no chat template: it continues text"):
        Prompter(folder).render(messages, **options)


def test_a_template_is_followed(folder: Path) -> None:
    shutil.copy(EMBEDDED["tiny"] / "chat_template.jinja", folder)
    text = Prompter(folder).render([{"role": "system", "content": "Be brief."}, *SAID])
    assert text == Prompter(EMBEDDED["tiny"]).render([{"role": "system", "content": "Be brief."}, *SAID])


def test_media_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="takes text only"):
        Prompter(folder).process("<bos>What is shown?", images=[object()])


def test_apps_are_told_why_there_is_no_dialogue(folder: Path) -> None:
    tokens: Any = None  # not looked at
    assert describe(Prompter(folder), tokens) == (None, {"all": NO_TEMPLATE})
