"""Tokens and bytes as they come, and the pieces of whole text that they make."""

import codecs
from collections.abc import Sequence
from typing import Any

from runtime.conversation import parsed_calls
from runtime.reply import Reader, Reply, parse_call
from tests.vectors.tiny import TOKENIZER, prompter

TEXTS = {
    "plain": "Hello, how are you?<turn|>",
    "other scripts": "鯨 🐋 ಠ é — naïve<turn|>",
    "joined emoji": "👩‍👩‍👧 ok 🇩🇰<turn|>",
    "blanks": "  two  blanks \n\n\tand lines \n<turn|>",
    "thought": "<|channel>thought\nHm. 鯨<channel|>Let me see.<turn|>",
    "thought alone": "<|channel>thought\nHm.<turn|>",
    "empty thought": "<|channel>thought\n<channel|>Yes.<turn|>",
    "call": '<|tool_call>call:weather{city:<|"|>Køge<|"|>,days:2}<tool_call|><|tool_response>',
    "two calls": "<|tool_call>call:a{}<tool_call|><|tool_call>call:b{x:1}<tool_call|>",
    "thought, text and call": "<|channel>thought\nHm.<channel|>Well: <|tool_call>call:clock{}<tool_call|>",
    "call that is none": "<|tool_call>weather<tool_call|>",
    "marks of turns within": "a<|turn>b<bos>c<|image|>d",
}
CALLS = [
    'call:weather{city:<|"|>Køge<|"|>,days:2}', "call:a{}", ' call:a { } ', "call:a{b:[1,2.5,-3e2],c:{d:true,e:null}}",
    'call:a{quote:<|"|>say "hi", {x:1}\\n<|"|>}', 'call:a{b:<|"|><|"|>}', "call:a.b-c{d_1.e-f:false}", "", "weather{}",
    "call:{}", "call:a{b}", 'call:a{b:<|"|>c}', "call:a{" * 5, "call:a{b:1", "call:a{b:1}}", 'call:a{"b":1}',
    "call:a{b:1,}", "call:a{b:01}", 'call:a{b:<|"|>line\nbreak<|"|>}', "call:a\n{b:\n1}\n",
]  # fmt: skip
CHUNKS = {
    "a character in four": [b"\xf0", b"\x9f", b"\x90", b"\x8b"],
    "two in one": [b"a\xc3", b"\xa9\xe9\xaf", b"\xa8."],
    "plain": [b"Hello", b"", b" there"],
    "invalid byte": [b"a\xff", b"b"],
    "a lone end": [b"\x80", b"a"],
    "cut short by another": [b"\xe9\xaf", b"a"],
    "cut short by the end": [b"ok\xf0\x9f\x90"],
    "surrogate": [b"\xed\xa0\x80", b"x"],
    "too long a form": [b"\xc0\xaf", b"x"],
}


def streams() -> dict[str, Any]:
    return {
        "about": "Tokens -> pieces [kind, text] of each, as runtime/reply; bytes -> text; written calls -> arguments.",
        "tokenizer": TOKENIZER,
        "tokens": [_tokens(name, prompter().encode(text).tolist()) for name, text in TEXTS.items()] + _broken(),
        "bytes": [_bytes(name, chunks) for name, chunks in CHUNKS.items()],
        "calls": [{"written": written, "parsed": parse_call(written)} for written in CALLS],
    }


def _tokens(name: str, ids: Sequence[int]) -> dict[str, Any]:
    reader = Reader(prompter().processor.tokenizer)
    pieces = [list(reader.add(token)) for token in ids]
    reply = Reply([piece for some in pieces for piece in some])
    return {
        "name": name, "ids": list(ids), "pieces": [[[piece.kind, piece.text] for piece in some] for some in pieces],
        "text": reply.text, "thought": reply.of("thought"), "calls": reply.calls, "parsed": parsed_calls(reply),
    }  # fmt: skip


def _broken() -> list[dict[str, Any]]:
    """Characters whose tokens were cut short."""
    whale = prompter().encode("🐋").tolist()
    (letter,) = prompter().encode("a").tolist()
    return [
        _tokens("cut short by the end", [letter, *whale[:-1]]),
        _tokens("cut short by a letter", [letter, *whale[:-1], letter, letter]),
        _tokens("cut short by another character", [*whale[:-1], *whale, letter]),
    ]


def _bytes(name: str, chunks: Sequence[bytes]) -> dict[str, Any]:
    """Invalid bytes become U+FFFD, one for each longest beginning of a character (Unicode 15, 3.9, D93b)."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [decoder.decode(chunk) for chunk in chunks]
    return {"name": name, "chunks": [chunk.hex() for chunk in chunks], "pieces": pieces,
            "end": decoder.decode(b"", final=True)}  # fmt: skip
