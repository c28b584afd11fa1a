"""What a model writes, told apart as it comes: thoughts, tool calls, and the answer itself."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tokenizers.decoders import DecodeStream

Kind = Literal["text", "thought", "call"]
CHANNEL, CHANNEL_END = "<|channel>", "<channel|>"
CALL, CALL_END = "<|tool_call>", "<tool_call|>"
QUOTE = '<|"|>'
OPENS: dict[str, Kind] = {CHANNEL: "thought", CALL: "call"}
CLOSES = CHANNEL_END, CALL_END
CALLED = re.compile(r"\s*call:([^{\s]+)\s*\{(.*)\}\s*", re.DOTALL)


@dataclass(frozen=True)
class Piece:
    """Some text that is whole: no character of it is missing a byte."""

    kind: Kind
    text: str


class Reader:
    """Tokens in, pieces out."""

    def __init__(self, tokenizer: Any) -> None:
        """
        Args:
            tokenizer: transformers' fast one.
        """
        self._names = tokenizer.convert_ids_to_tokens
        self._backend = tokenizer.backend_tokenizer
        self._specials = set(tokenizer.all_special_ids)
        self._kind: Kind = "text"
        self._stream = DecodeStream()

    def add(self, token: int) -> Iterator[Piece]:
        """Marks of channels and calls open and close a kind; other special tokens say nothing."""
        name = self._names(token)
        if name in OPENS or name in CLOSES:
            self._kind, self._stream = OPENS.get(name, "text"), DecodeStream()
            yield Piece(self._kind, "")  # tells two calls in a row apart
        elif (name == QUOTE or token not in self._specials) and (text := self._stream.step(self._backend, token)):
            yield Piece(self._kind, text)


@dataclass
class Reply:
    """A turn of the model's, as far as it has come."""

    pieces: list[Piece] = field(default_factory=list)

    def of(self, kind: Kind) -> str:
        return "".join(piece.text for piece in self.pieces if piece.kind == kind)

    @property
    def text(self) -> str:
        return self.of("text")

    @property
    def calls(self) -> list[str]:
        """Each as the model wrote it, `call:NAME{...}`."""
        found: list[str] = []
        for piece in (piece for piece in self.pieces if piece.kind == "call"):
            if not piece.text:
                found.append("")
            else:
                found[-1] += piece.text
        return found


def parse_call(written: str) -> dict[str, Any] | None:
    """`call:NAME{key:value,...}` -> {"name": NAME, "arguments": {...}}; None where it is not of this form.

    Strings stand between `<|"|>`; keys are bare; numbers, true, false, null, lists and objects are JSON's.
    """
    found = CALLED.fullmatch(written)
    if not found:
        return None
    try:
        return {"name": found[1], "arguments": json.loads("{" + _as_json(found[2]) + "}")}
    except ValueError:
        return None


def _as_json(arguments: str) -> str:
    """Quoted strings to JSON's, bare keys in quotes."""
    parts = arguments.split(QUOTE)
    if len(parts) % 2 == 0:
        raise ValueError("a string without an end")
    for index, part in enumerate(parts):
        bare = re.sub(r"([{,\[]|^)\s*([A-Za-z_][\w.-]*)\s*:", r'\1"\2":', part)
        parts[index] = json.dumps(part) if index % 2 else bare
    return "".join(parts)
