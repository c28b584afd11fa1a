"""The embedded model's prompts, opened once."""

from functools import cache

from export.dialogue import describe
from export.facts import tokens
from export.models import EMBEDDED
from runtime.manifest import Dialogue, Tokens
from runtime.prompt import Prompter

FOLDER = EMBEDDED["tiny"]
TOKENIZER = "export/tiny/checkpoint/tokenizer.json"


@cache
def prompter() -> Prompter:
    return Prompter(FOLDER)


@cache
def special() -> Tokens:
    return tokens(FOLDER)


@cache
def dialogue() -> Dialogue:
    found, undescribed = describe(prompter(), special())
    assert found and not undescribed, undescribed
    return found
