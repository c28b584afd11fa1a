"""Tokens to text, thoughts and calls, as they come."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.models import EMBEDDED
from runtime.prompt import Prompter
from runtime.reply import Reader, Reply, parse_call

PROMPTER = Prompter(EMBEDDED["tiny"])
TOKENIZER = PROMPTER.processor.tokenizer


def read(text: str) -> Reply:
    reader = Reader(TOKENIZER)
    return Reply([piece for token in PROMPTER.encode(text) for piece in reader.add(int(token))])


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<"), max_size=40))
def test_pieces_make_up_the_text_and_none_breaks_a_character(text: str) -> None:
    tokens = PROMPTER.encode(text)
    reply = read(text)
    assert reply.text == PROMPTER.decode(tokens.tolist(), special=True)
    assert all("\ufffd" not in piece.text for piece in reply.pieces) or "\ufffd" in text


def test_control_tokens_by_themselves_do_break_characters() -> None:
    tokens = PROMPTER.encode("鯨 🐋 ಠ")
    assert "\ufffd" in "".join(TOKENIZER.decode([token]) for token in tokens)
    assert read("鯨 🐋 ಠ").text == PROMPTER.decode(tokens.tolist())


def test_thoughts_and_calls_are_told_apart() -> None:
    call = 'call:weather{city:<|"|>Køge<|"|>,days:2}'
    reply = read(f"<|channel>thought\nHm.<channel|>Let me see.<|tool_call>{call}<tool_call|><turn|>")
    assert reply.of("thought") == "thought\nHm." and reply.text == "Let me see." and reply.calls == [call]


def test_two_calls_in_a_row() -> None:
    reply = read("<|tool_call>call:a{}<tool_call|><|tool_call>call:b{x:1}<tool_call|>")
    assert [parse_call(call) for call in reply.calls] == [
        {"name": "a", "arguments": {}},
        {"name": "b", "arguments": {"x": 1}},
    ]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text("abc {}:,[]'\"\\é", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b_2", "cc"]), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["city", "days", "why"]), values, max_size=3))
def test_calls_are_read_as_they_were_made(arguments: dict[str, Any]) -> None:
    assert parse_call("call:tool{" + written(arguments) + "}") == {"name": "tool", "arguments": arguments}


def written(value: dict[str, Any]) -> str:
    """As the model writes arguments."""
    return ",".join(f"{key}:{argument(inner)}" for key, inner in value.items())


def argument(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + written(value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(argument, value)) + "]"
    return json.dumps(value)


@pytest.mark.parametrize("text", ["", "weather{}", "call:{}", "call:a{b}", 'call:a{b:<|"|>c}', "call:a{" * 50])
def test_what_is_no_call_is_none(text: str) -> None:
    assert parse_call(text) is None
