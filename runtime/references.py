"""The model that engines are judged by: transformers' own, whole in memory or streamed through it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.greedy import Greedy
from runtime.manifest import ReferenceKind, Tokens
from runtime.progress import Status
from runtime.sessions.base import ModelInputs, Positions
from runtime.sessions.past import Scales
from runtime.sessions.reference import Blocks, ReferenceSession, memory_shortage
from runtime.sessions.streamed import StreamedReference

KINDS: tuple[ReferenceKind, ...] = get_args(ReferenceKind)


class Reference(Protocol):
    """A checkpoint in transformers. A batch costs a streamed one no more passes over its weights than one sequence."""

    def variant(
        self, blocks: Blocks | None = None, kv_scales: Scales | None = None, half_cache: bool = False
    ) -> "Reference":
        """The same weights with an engine's arithmetic: see `ReferenceSession`."""

    def read(self, sequences: Sequence[ModelInputs], wanted: Sequence[Positions]) -> NDArray[np.float32]:
        """Logits after the wanted positions of each sequence, one sequence's after another's.

        Returns:
            [positions of all, vocabulary], which a file backs: there may be more of them than memory.
        """

    def generate(self, prompts: Sequence[ModelInputs], tokens: Tokens, steps: int) -> list[Greedy]:
        """What each prompt is continued with, at most so many tokens."""


def find_kind(name: str) -> ReferenceKind:
    """Raises:
    UserError: there is none of this name.
    """
    for kind in KINDS:
        if name == kind:
            return kind
    raise UserError(f"no reference {name!r}; there are {', '.join(KINDS)}")


def choose_kind(checkpoint: Path, wanted: ReferenceKind) -> ReferenceKind:
    """What is wanted, unless it does not fit the free memory. A streamed one takes hours: it must be asked for."""
    return "none" if wanted == "whole" and memory_shortage(checkpoint) else wanted


def open_reference(
    checkpoint: Path, kind: ReferenceKind, dtype: torch.dtype = torch.float32,
    status: Status = lambda text: None,
) -> Reference:  # fmt: skip
    """
    Args:
        dtype: of weights and activations.
        status: told what goes on.

    Raises:
        UserError: no checkpoint there that transformers opens.
    """
    if kind == "streamed":
        return StreamedReference.open(checkpoint, dtype, status)
    return ReferenceSession.open(checkpoint, dtype)
