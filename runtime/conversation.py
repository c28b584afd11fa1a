"""Several turns over one session: the cache is kept, and only what a new turn adds is prefilled."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.errors import UserError
from runtime.manifest import Tokens
from runtime.prompt import KINDS, Message, Prompter, media_paths
from runtime.reply import Piece, Reader, Reply, parse_call
from runtime.sessions.base import Logits, ModelInputs, Session

Choose = Callable[[Logits], int]


@dataclass
class Turn:
    """An answer, and what it took."""

    reply: Reply = field(default_factory=Reply)
    tokens: list[int] = field(default_factory=list)
    prefilled: int = 0  # positions
    first: float = 0  # seconds to the first token
    decoding: float = 0  # seconds for the others
    ended: str = ""  # why it did: the model, the limit, the context, or the user

    @property
    def rate(self) -> float:
        """Tokens per second behind the first."""
        return (len(self.tokens) - 1) / self.decoding if self.decoding else 0.0


@dataclass
class Memory:
    """What the session's cache holds, as text; and tokens of it that are chosen but not in there yet."""

    text: str = ""
    media: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))  # how many of each kind
    waiting: list[int] = field(default_factory=list)


class Conversation:
    """Messages to and from a model."""

    def __init__(
        self, session: Session, prompter: Prompter, tokens: Tokens, choose: Choose, context: int,
        splits_media: bool = True, system: str = "", **options: Any,
    ) -> None:  # fmt: skip
        """
        Args:
            context: positions that the session has room for.
            splits_media: whether it takes media in any prefill; otherwise a turn with media begins from the start.
            options: of the chat template, see `Prompter.render`.
        """
        self.session = session
        self.prompter = prompter
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        self._tokens, self._choose, self._context = tokens, choose, context
        self._splits_media, self._options = splits_media, options
        self._memory = Memory()
        session.reset()

    def say(
        self, messages: Sequence[Message], turn: Turn, limit: int = 2048, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Piece]:
        """Adds messages and yields the answer as it comes; `turn` takes note. Another call goes on from there.

        Args:
            messages: one of the user's, or results of the tools that were called.
            limit: tokens of the answer.
            stopped: asked after each token; the answer stays as far as it came.

        Raises:
            UserError: nothing was said, or it does not fit the context; the conversation stays as it was.
        """
        begun = time.perf_counter()
        logits, turn.prefilled = self._hear([*self.messages, *messages])
        self.messages += messages
        reader, written = Reader(self.prompter.processor.tokenizer), turn.tokens
        while not turn.ended:
            token = self._choose(logits)
            written.append(token)
            for piece in reader.add(token):
                turn.reply.pieces.append(piece)
                yield piece
            turn.first, turn.decoding = self._clock(begun, turn)
            turn.ended = self._why_end(token, len(written), limit, stopped)
            if not turn.ended:
                logits = self.session.decode(token)
        self._remember(turn)

    def _clock(self, begun: float, turn: Turn) -> tuple[float, float]:
        passed = time.perf_counter() - begun
        return (turn.first, passed - turn.first) if turn.first else (passed, 0.0)

    def _why_end(self, token: int, written: int, limit: int, stopped: Callable[[], bool]) -> str:
        if token in self._tokens.eos:
            return "model"
        if written == limit:
            return "limit"
        if self.session.position + 1 >= self._context:
            return "context"
        return "user" if stopped() else ""

    def _hear(self, messages: Sequence[Message]) -> tuple[Logits, int]:
        """Prefills what the cache does not hold yet."""
        if not any(_says_something(message) for message in messages[-1:]):
            raise UserError("nothing was said: write something, or name an image, a video or a clip")
        text = self.prompter.render(messages, **self._options)
        media = {kind: media_paths(messages, kind) for kind in KINDS}
        counts = {kind: len(paths) for kind, paths in media.items()}
        memory = self._memory if self._goes_on(text, counts) else Memory()
        new = {kind: paths[memory.media[kind] :] for kind, paths in media.items()}
        inputs = self.prompter.read(text[len(memory.text) :], new)
        ids = np.concatenate([np.array(memory.waiting, np.int64), inputs.input_ids])
        inputs = ModelInputs(**inputs.arrays() | {"input_ids": ids})
        self._require_room(len(ids) + (self.session.position if memory.text else 0))
        if not memory.text:
            self.session.reset()
            self._memory = Memory()
        logits = self.session.prefill(inputs)
        self._memory = Memory(text, counts)
        return logits, len(ids)

    def _goes_on(self, text: str, media: dict[str, int]) -> bool:
        """Whether the cache holds the beginning: a template may drop thoughts from turns that are over."""
        more = media != self._memory.media
        return bool(self._memory.text) and text.startswith(self._memory.text) and (self._splits_media or not more)

    def _require_room(self, positions: int) -> None:
        if positions >= self._context:
            raise UserError(f"{positions} positions leave no room for an answer in the context of {self._context}: "
                            "say less, begin again, or export with a larger CONTEXT")  # fmt: skip

    def _remember(self, turn: Turn) -> None:
        """The last token was chosen, but no engine has seen it."""
        self._memory.text += self.prompter.decode(turn.tokens, special=True)
        self._memory.waiting = turn.tokens[-1:]
        self.messages.append(message_of(turn.reply))


def message_of(reply: Reply) -> Message:
    """As the chat template takes it back."""
    calls = [{"type": "function", "function": _function(written)} for written in reply.calls]
    return {"role": "assistant", "content": reply.text} | ({"tool_calls": calls} if calls else {})


def _function(written: str) -> dict[str, Any]:
    """Arguments as the model wrote them, so that they are what the cache holds; parsed ones are for the caller."""
    name, _, arguments = written.partition("call:")[2].partition("{")
    return {"name": name, "arguments": arguments.removesuffix("}")}


def parsed_calls(reply: Reply) -> list[dict[str, Any]]:
    """Calls of tools, `name` and `arguments`; with `written` alone where the model wrote no such thing."""
    return [parse_call(written) or {"written": written} for written in reply.calls]


def _says_something(message: Message) -> bool:
    content = message.get("content")
    if isinstance(content, str):
        return bool(content.strip()) or message["role"] == "tool"
    return any(part["type"] != "text" or part["text"].strip() for part in content or [])
