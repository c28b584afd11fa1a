"""Which engines run the artifacts of each format. A new format is one more row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.sessions.base import Session
from runtime.sessions.genai import GenaiSession
from runtime.sessions.onnx import OnnxSession


@dataclass(frozen=True)
class Engine:
    """A way to run the files in a format's folder."""

    name: str
    open: Callable[[Path], Session]
    splits_media: bool = True  # takes media in any prefill, not in the first alone
    exact: Callable[[Path], Session] | None = None  # the same artifact without int8 activations: its float twin


ENGINES = {
    "onnx": (
        Engine(OnnxSession.name, OnnxSession, exact=lambda folder: OnnxSession(folder, exact=True)),
        Engine(GenaiSession.name, GenaiSession, splits_media=False),
    ),
}
