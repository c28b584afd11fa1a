"""Talking to a bundle: lines in, answers streamed out, what they took after each."""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from runtime.conversation import Conversation, Turn, parsed_calls
from runtime.engines import find_engine
from runtime.errors import EngineError, UserError, first_line, one_line
from runtime.manifest import Manifest, Sampling, read_manifest
from runtime.prompt import Message, Prompter, read_audio, read_image, user
from runtime.sampling import Sampler
from runtime.sessions.base import Session
from runtime.untrusted import read_json

TOOLS = '[{"type": "function", "function": {"name": ..., "parameters": {...}}}]'

REFERENCE = "reference"
STYLES = {"text": "", "thought": "dim italic", "call": "cyan"}
ENDS = {"limit": "stopped at the limit", "context": "the context is full", "user": "stopped"}


@dataclass(frozen=True)
class Settings:
    """Of a conversation."""

    engine: str | None = None  # an Engine's choice, or the reference; by default the bundle's first
    quantized: Path | None = None  # checkpoint of the reference
    images: Sequence[Path] = ()  # of the first turn
    clips: Sequence[Path] = ()
    videos: Sequence[Path] = ()
    image_tokens: int | None = None  # instead of the checkpoint's; and so the next
    frames: int | None = None
    system: str = ""
    think: bool = False
    tools: Path | None = None
    greedy: bool = False
    temperature: float | None = None  # instead of the checkpoint's
    seed: int | None = None
    limit: int = 2048  # tokens of an answer


def open_conversation(bundle: Path, settings: Settings) -> Conversation:
    """Raises:
    UserError: no bundle there, no such engine, no artifact for it, or unreadable tools or media.
    """
    manifest = read_manifest(bundle)
    tools = {"tools": read_tools(settings.tools)} if settings.tools else {}
    prompter = Prompter(bundle, settings.image_tokens, settings.frames)
    _require_media(settings, prompter)
    session, context, splits = _open(bundle, manifest, settings)
    options: dict[str, Any] = tools | ({"enable_thinking": True} if settings.think else {})
    sampler = Sampler(_sampling(manifest.sampling, settings), manifest.tokens, settings.seed)
    return Conversation(session, prompter, manifest.tokens, sampler, context, splits,
                        settings.system, **options)  # fmt: skip


def _require_media(settings: Settings, prompter: Prompter) -> None:
    """Before an engine takes seconds to open."""
    for path in settings.images:
        read_image(path)
    for path in settings.videos:
        prompter.read_video(path)
    for path in settings.clips:
        read_audio(path, prompter.sampling_rate, prompter.longest_clip)


def _open(bundle: Path, manifest: Manifest, settings: Settings) -> tuple[Session, int, bool]:
    """The session, the positions it has room for, and whether it takes media in any turn."""
    if settings.engine == REFERENCE:
        from runtime.sessions.reference import ReferenceSession

        if settings.quantized is None or not settings.quantized.is_dir():
            raise UserError("the reference needs the quantized checkpoint: name its folder with --quantized")
        return ReferenceSession.open(settings.quantized), manifest.limits.context, True
    engine, format_ = find_engine(manifest, settings.engine)
    with refusals_told(engine.name):
        return engine.open(bundle / format_), manifest.limits.context, engine.splits_media


def _sampling(usual: Sampling, settings: Settings) -> Sampling:
    changes: dict[str, Any] = {"do_sample": False} if settings.greedy else {}
    if settings.temperature is not None:
        changes["temperature"] = settings.temperature
    return usual.model_copy(update=changes)


def read_tools(path: Path) -> list[Any]:
    """Declarations, as chat templates of transformers take them.

    Raises:
        UserError: no file there, or not a list of functions with names.
    """
    tools = read_json(path, f"no list of tools; write {TOOLS}")
    try:
        named = isinstance(tools, list) and all(isinstance(tool.get("function", tool)["name"], str) for tool in tools)
        if not named:
            raise TypeError("not a list of functions with names")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no list of tools ({type(error).__name__}: {error}); write {TOOLS}") from None
    return tools


def talk(
    conversation: Conversation, lines: Iterator[str], settings: Settings, console: Console, strict: bool = False
) -> None:
    """A turn for each line, until there are no more. What cannot be said is told, and the next line is taken.

    Args:
        strict: what cannot be said ends the conversation.

    Raises:
        EngineError: the engine fails on the bundle's files.
        UserError: with `strict`, what cannot be said.
    """
    given = {"images": settings.images, "videos": settings.videos, "clips": settings.clips}
    media = {kind: [str(path) for path in paths] for kind, paths in given.items()}
    for line in lines:
        try:
            _take_turn(conversation, user(line, **media), settings, console)
        except UserError as error:
            if strict or isinstance(error, EngineError):
                raise
            console.print(f"[bold red]error[/]: {escape(one_line(error))}")
            continue
        media = {}


def _take_turn(conversation: Conversation, messages: Sequence[Message], settings: Settings, console: Console) -> None:
    turn = Turn()
    with interruptible() as stopped, refusals_told(conversation.session.name):
        for piece in conversation.say(messages, turn, settings.limit, stopped):
            console.print(piece.text, style=STYLES[piece.kind], end="", markup=False, highlight=False, soft_wrap=True)
    tell(turn, console)


@contextmanager
def refusals_told(engine: str) -> Iterator[None]:
    """Engines refuse damaged files in ways of their own, some of them only when a part is first used."""
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except Exception as error:
        raise EngineError(f"{engine} fails on the bundle ({first_line(error)}): `python -m runtime verify` says what "
                          "is wrong with it") from error  # fmt: skip


def tell(turn: Turn, console: Console) -> None:
    """What follows an answer: calls of tools as JSON, one in a line, then what it took."""
    console.print()
    for call in parsed_calls(turn.reply):
        console.print(json.dumps(call, ensure_ascii=False), markup=False, highlight=False, soft_wrap=True)
    facts = [f"{turn.prefilled} positions prefilled", f"first token after {turn.first:.2f} s",
             f"{len(turn.tokens)} tokens", f"{turn.rate:.1f} tokens/s", ENDS.get(turn.ended, "")]  # fmt: skip
    console.print(f"[dim]{', '.join(filter(None, facts))}[/]")


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks the answer to stop, which keeps the conversation whole; a second one ends the program."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
