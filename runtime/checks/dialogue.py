"""Conversations that the manifest's pieces of text and the chat template must make the same prompts of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from runtime.dialogue import Tool, build_prompt
from runtime.manifest import Dialogue
from runtime.prompt import Message, Prompter

WEATHER: Tool = {"type": "function", "function": {
    "name": "weather", "description": "Of a city.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "Days": {"type": "integer"}},
        "required": ["city"]}}}  # fmt: skip
CLOCK: Tool = {"type": "function", "function": {"name": "clock", "description": "", "parameters": {}}}


@dataclass(frozen=True)
class Talk:
    """Messages and options, as `Prompter.render` takes them."""

    name: str
    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    think: bool = False

    @property
    def options(self) -> dict[str, Any]:
        return {"tools": list(self.tools) or None, "enable_thinking": self.think}


def differing(prompter: Prompter, dialogue: Dialogue) -> Iterator[str]:
    """Names of talks of which the pieces make another prompt; those with tools only where these are described."""
    for talk in talks(dialogue):
        if build_prompt(dialogue, talk.messages, talk.tools, talk.think) != prompter.render(
            talk.messages, **talk.options
        ):
            yield talk.name


def talks(dialogue: Dialogue) -> Iterator[Talk]:
    """Every dialogue, with each system message, with thinking and without, as far as the dialogue describes them."""
    said = {**plain_dialogues(), **media_dialogues(list(dialogue.media))}
    said |= tool_dialogues() if dialogue.tools else {}
    declared: list[tuple[Tool, ...]] = [(), (WEATHER,), (WEATHER, CLOCK)] if dialogue.tools else [()]
    systems: list[list[Message]] = [[], [_text("system", "Be short.")], [_text("system", "\n Be short. \u00a0")]]
    for (name, messages), (at, system), tools, think in product(
        said.items(), enumerate(systems), declared, (False, True)
    ):
        label = f"{name}, system {at}, {len(tools)} tools" + (", thinking" if think else "")
        yield Talk(label, [*system, *messages], tools, think)


def _text(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def plain_dialogues() -> Mapping[str, list[Message]]:
    """Text alone."""
    user, model = "user", "assistant"
    return {
        "one turn": [_text(user, "What is a whale?")],
        "blanks": [_text(user, " \t Line one\n\n line two  \n")],
        "other scripts": [_text(user, "鯨 🐋 ಠ é")],
        "three turns": [_text(user, "Hi"), _text(model, "Hello."), _text(user, "Sure?"), _text(model, "Yes. "),
                        _text(user, "Why?")],
        "thoughts": [_text(user, "Hi"), _text(model, "<|channel>thought\nHm.<channel|>Hello.<|channel>a<channel|> "),
                     _text(user, "Sure?")],
        "an open thought": [_text(user, "Hi"), _text(model, "So <|channel>thought\nHm."), _text(user, "Sure?")],
    }  # fmt: skip


def media_dialogues(kinds: Sequence[str]) -> Mapping[str, list[Message]]:
    """One of each kind before the text; all of them among texts, and in a later turn again."""
    media = [{"type": kind, "path": f"{kind}.bin"} for kind in kinds]

    def turn(*parts: Mapping[str, str]) -> Message:
        return {"role": "user", "content": [*parts, {"type": "text", "text": " What is it? "}]}

    single = {f"one {part['type']}": [turn(part)] for part in media}
    text = {"type": "text", "text": "Look: "}
    mixed = [turn(text, *media), _text("assistant", "A boot."), turn(*media[::-1], text)]
    return single | ({"media" + " and text": mixed} if media else {})


def tool_dialogues() -> Mapping[str, list[Message]]:
    """Calls with arguments of all types, their responses, and answers."""
    ask = _text("user", "How is the weather?")
    values = {"city": "Køge", "Days": 2, "now": True, "b": {"z": [1, "x"], "a": False}, "share": 0.5}
    written: Message = _calls("", {"name": "weather", "arguments": 'city:<|"|>Køge<|"|>'})
    called = _calls("Let me see.", {"name": "weather", "arguments": values}, {"name": "clock", "arguments": {}})
    told: list[Message] = [
        {"role": "tool", "name": "weather", "content": {"sky": "grey", "degrees": 4}},
        {"role": "tool", "name": "clock", "content": "ten past nine"},
    ]
    return {
        "a call as written": [ask, written],
        "a response": [ask, written, told[1]],
        "two calls and responses": [ask, called, *told],
        "an answer": [ask, called, *told, _text("assistant", "Grey."), _text("user", "And now?")],
    }


def _calls(text: str, *functions: Mapping[str, Any]) -> Message:
    return {"role": "assistant", "content": text,
            "tool_calls": [{"type": "function", "function": function} for function in functions]}  # fmt: skip
