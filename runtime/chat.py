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
from runtime.errors import UserError
from runtime.manifest import Manifest, Sampling, read_manifest
from runtime.prompt import Prompter, user
from runtime.sampling import Sampler
from runtime.sessions.base import Session

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
    UserError: no bundle there, no such engine, no artifact for it, or unreadable tools.
    """
    manifest = read_manifest(bundle)
    session, context, splits = _open(bundle, manifest, settings)
    options: dict[str, Any] = {"tools": read_tools(settings.tools)} if settings.tools else {}
    if settings.think:
        options["enable_thinking"] = True
    sampler = Sampler(_sampling(manifest.sampling, settings), manifest.tokens, settings.seed)
    prompter = Prompter(bundle, settings.image_tokens, settings.frames)
    return Conversation(session, prompter, manifest.tokens, sampler, context, splits,
                        settings.system, **options)  # fmt: skip


def _open(bundle: Path, manifest: Manifest, settings: Settings) -> tuple[Session, int, bool]:
    """The session, the positions it has room for, and whether it takes media in any turn."""
    if settings.engine == REFERENCE:
        from runtime.sessions.reference import ReferenceSession

        if settings.quantized is None or not settings.quantized.is_dir():
            raise UserError("the reference needs the quantized checkpoint: name its folder with --quantized")
        return ReferenceSession.open(settings.quantized), manifest.limits.context, True
    engine, format_ = find_engine(manifest, settings.engine)
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
    try:
        tools = json.loads(path.read_bytes())
        if not isinstance(tools, list) or not all(tool.get("function", tool)["name"] for tool in tools):
            raise TypeError("not a list of functions with names")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: no list of tools ({type(error).__name__}: {error}); write "
                        '[{"type": "function", "function": {"name": ..., "parameters": {...}}}]') from None  # fmt: skip
    return tools


def talk(conversation: Conversation, lines: Iterator[str], settings: Settings, console: Console) -> None:
    """A turn for each line, until there are no more. What cannot be said is told, and the next line is taken."""
    given = {"images": settings.images, "videos": settings.videos, "clips": settings.clips}
    media = {kind: [str(path) for path in paths] for kind, paths in given.items()}
    for line in lines:
        turn = Turn()
        try:
            with interruptible() as stopped:
                for piece in conversation.say(user(line, **media), turn, settings.limit, stopped):
                    console.print(piece.text, style=STYLES[piece.kind], end="", markup=False, highlight=False,
                                  soft_wrap=True)  # fmt: skip
        except UserError as error:
            console.print(f"[bold red]error[/]: {escape(str(error))}")
            continue
        media = {}
        tell(turn, console)


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
