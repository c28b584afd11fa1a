"""llama.cpp as a peer, through llama-cpp-python, where that is installed."""

from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import MissingPackage, UserError
from runtime.sessions.base import Logits, ModelInputs

PEER = "llama.cpp"
CURE = "pip install 'llama-cpp-python>=0.3,<0.4' (it is built on your machine, which takes minutes and a C++ compiler)"


def require_llama() -> None:
    """Raises:
    MissingPackage: it is not installed, or its library does not load.
    """
    try:
        import llama_cpp  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise MissingPackage(f"llama-cpp-python is not installed ({reason}): {CURE}") from None


class LlamaSession:
    """Session, of text alone: one sequence, the library's own defaults but for threads and context."""

    name = PEER

    def __init__(self, path: Path, threads: int | None, context: int) -> None:
        """
        Args:
            path: model in GGUF.
            context: positions that are made room for.

        Raises:
            UserError: the library does not open it.
        """
        from llama_cpp import Llama

        try:
            self._model: Any = Llama(str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads,
                                     verbose=False)  # fmt: skip
        except (ValueError, RuntimeError, AssertionError) as error:
            raise UserError(f"{path} does not open ({(str(error).splitlines() or [''])[0]}): name a model in GGUF "
                            "that this llama.cpp knows") from None  # fmt: skip

    @property
    def position(self) -> int:
        return int(self._model.n_tokens)

    def reset(self) -> None:
        self._model.reset()

    def prefill(self, inputs: ModelInputs) -> Logits:
        self._model.eval(inputs.input_ids.tolist())
        return self._logits()

    def decode(self, token: int) -> Logits:
        self._model.eval([token])
        return self._logits()

    def _logits(self) -> Logits:
        """Of the last position, in the library's own buffer."""
        pointer = self._model._ctx.get_logits_ith(-1)
        return np.ctypeslib.as_array(pointer, (self._model.n_vocab(),))
