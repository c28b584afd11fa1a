"""Several turns over one session: the cache is kept, and only what a new turn adds is prefilled.

A template may write a turn that is over in another way than the model read and wrote it: Gemma 4's own leaves out
thoughts, and the empty one that a prompt without thinking ends in. Then the cache is taken back to where both agree.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.errors import UserError
from runtime.manifest import Tokens
from runtime.prompt import KINDS, Message, Prompter, media_paths
from runtime.reply import Piece, Reader, Reply, parse_call
from runtime.sessions.base import Logits, ModelInputs, Rewindable, Session

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
    """What the session's cache holds, as text and as tokens; and tokens that are chosen but not in there yet."""

    text: str = ""  # with those that wait
    media: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))  # how many of each kind
    ids: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    behind_media: tuple[int, int] = (0, 0)  # where the last medium ends, in `text` and in `ids`


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
        inputs, position = self._unheard(text, media)
        self._require_room(position + len(inputs.input_ids))
        if position != self.session.position and not self._go_back(position):
            inputs, position = self.prompter.read(text, media), 0
            self.session.reset()
        held, self._memory = self._memory if position else Memory(), Memory()  # in case that the engine stops
        logits = self.session.prefill(inputs)
        self._memory = self._heard(text, media, held, held.ids[:position] + inputs.input_ids.tolist())
        return logits, len(inputs.input_ids)

    def _go_back(self, position: int) -> bool:
        return position > 0 and isinstance(self.session, Rewindable) and self.session.rewind(position)

    def _unheard(self, text: str, media: Mapping[str, list[str]]) -> tuple[ModelInputs, int]:
        """What the cache lacks, and the position where that begins."""
        held, (start, at) = self._memory, self._memory.behind_media
        new = {kind: paths[held.media[kind] :] for kind, paths in media.items()}
        if held.text and (self._splits_media or not any(new.values())):
            if text.startswith(held.text):
                return _behind(held.waiting, self.prompter.read(text[len(held.text) :], new)), len(held.ids)
            if text.startswith(held.text[:start]):
                inputs = self.prompter.read(text[start:], new)
                same = _common(inputs.input_ids[:-1].tolist(), held.ids[at:])
                return ModelInputs(**inputs.arrays() | {"input_ids": inputs.input_ids[same:]}), at + same
        return self.prompter.read(text, media), 0

    def _heard(self, text: str, media: Mapping[str, list[str]], before: Memory, ids: list[int]) -> Memory:
        """With what was prefilled."""
        counts = {kind: len(paths) for kind, paths in media.items()}
        if counts == before.media:
            return Memory(text, counts, ids, behind_media=before.behind_media)
        start = max(text.rfind(mark) + len(mark) for mark in _placeholders(self.prompter))
        tail = self.prompter.encode(text[start:]).tolist()
        found = bool(tail) and ids[-len(tail) :] == tail
        return Memory(text, counts, ids, behind_media=(start, len(ids) - len(tail)) if found else (len(text), len(ids)))

    def _require_room(self, positions: int) -> None:
        if positions >= self._context:
            raise UserError(f"{positions} positions leave no room for an answer in the context of {self._context}: "
                            "say less, begin again, or export with a larger CONTEXT")  # fmt: skip

    def _remember(self, turn: Turn) -> None:
        """The last token was chosen, but no engine has seen it."""
        self._memory.text += self.prompter.decode(turn.tokens, special=True)
        self._memory.ids += turn.tokens[:-1]
        self._memory.waiting = turn.tokens[-1:]
        self.messages.append(message_of(turn.reply))


def message_of(reply: Reply) -> Message:
    """As the chat template takes it back."""
    calls = [{"type": "function", "function": _function(written)} for written in reply.calls]
    return {"role": "assistant", "content": reply.text} | ({"tool_calls": calls} if calls else {})


def _placeholders(prompter: Prompter) -> list[str]:
    """What the template writes for media, of the kinds that the processor knows."""
    names = (f"{name}_token" for name in KINDS)
    return [mark for name in names if (mark := getattr(prompter.processor, name, None))]


def _behind(tokens: Sequence[int], inputs: ModelInputs) -> ModelInputs:
    """With tokens before them."""
    ids = np.concatenate([np.array(tokens, np.int64), inputs.input_ids])
    return ModelInputs(**inputs.arrays() | {"input_ids": ids})


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens are the same."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _function(written: str) -> dict[str, Any]:
    """Arguments as an object, which Gemma 4's template asks for; as the model wrote them where they are none."""
    name, _, arguments = written.partition("call:")[2].partition("{")
    return parse_call(written) or {"name": name, "arguments": arguments.removesuffix("}")}


def parsed_calls(reply: Reply) -> list[dict[str, Any]]:
    """Calls of tools, `name` and `arguments`; with `written` alone where the model wrote no such thing."""
    return [parse_call(written) or {"written": written} for written in reply.calls]


def _says_something(message: Message) -> bool:
    content = message.get("content")
    if isinstance(content, str):
        return bool(content.strip()) or message["role"] == "tool"
    return any(part["type"] != "text" or part["text"].strip() for part in content or [])
