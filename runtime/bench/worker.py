"""One process for each engine, which holds its session open and times what it is asked to do."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import psutil

from runtime.bench.memory import Memory, read_memory
from runtime.errors import UserError
from runtime.quiet import quiet
from runtime.sessions.base import Encoder, ModelInputs, Session

LOOK = 0.02  # seconds between two looks at a process's memory
PATIENCE = 10.0  # seconds that a process may take to end


class Seconds(NamedTuple):
    """Of one prompt from the start of a sequence."""

    prefill: float
    decode: float | None  # of all tokens behind it; None without any


# In the process of its own


def serve(pipe: Connection, opens: Callable[[], Session], late: Sequence[str]) -> None:
    """Answers requests until there are no more: a method of `Timed` and its arguments.

    An answer is ("done", what it returned) or ("failed", one line).
    """
    with quiet(), suppress(EOFError, KeyboardInterrupt):  # what native libraries print would stand among the figures
        with suppress(ImportError):  # opening says what is missing
            for module in late:
                import_module(module)
        pipe.send(("done", None))
        timed = Timed(opens)
        while True:
            request, *arguments = pipe.recv()
            try:
                answer = "done", getattr(timed, request)(*arguments)
            except UserError as error:
                answer = "failed", str(error)
            except Exception as error:  # the engine's own
                answer = "failed", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            pipe.send(answer)


class Timed:
    """A session whose work is timed, in seconds."""

    def __init__(self, opens: Callable[[], Session]) -> None:
        self._opens = opens

    def open(self) -> float:
        begun = time.perf_counter()
        self._session = self._opens()
        return time.perf_counter() - begun

    def prefill(self, inputs: ModelInputs, tokens: Sequence[int]) -> Seconds:
        """A prompt, and the tokens after it one by one; which they are makes no difference to the time."""
        self._session.reset()
        begun = time.perf_counter()
        self._session.prefill(inputs)
        taken = time.perf_counter() - begun
        begun = time.perf_counter()
        for token in tokens:
            self._session.decode(token)
        return Seconds(taken, time.perf_counter() - begun if tokens else None)

    def encode(self, inputs: ModelInputs) -> float | None:
        """The encoder alone; None where the session cannot do so."""
        if not isinstance(self._session, Encoder):
            return None
        begun = time.perf_counter()
        self._session.encode(inputs)
        return time.perf_counter() - begun


# In the process that asks


class Worker:
    """The other end. Spawned, not forked: its libraries are those that its session imports."""

    def __init__(self, name: str, opens: Callable[[], Session], late: Sequence[str] = ()) -> None:
        self.name = name
        self.samples: list[Memory] = []
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, opens, late), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def ask(self, *request: Any) -> Any:
        """Its answer. Memory is looked at meanwhile.

        Raises:
            UserError: it cannot do so, or its process ended.
        """
        try:
            self._pipe.send(request)
        except OSError:
            raise self._ended() from None
        return self._answer()

    def memory(self) -> Memory:
        """Of now."""
        try:
            self.samples.append(read_memory(self._pid))
        except psutil.NoSuchProcess:
            raise self._ended() from None
        return self.samples[-1]

    @property
    def threads(self) -> int:
        """That its process has now."""
        return int(psutil.Process(self._pid).num_threads())

    def close(self) -> None:
        self._pipe.close()
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    @property
    def _pid(self) -> int:
        assert self._process.pid is not None, "started by the constructor"
        return self._process.pid

    def _answer(self) -> Any:
        try:
            while not self._pipe.poll(LOOK):
                self.memory()
            outcome, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if outcome == "failed":
            raise UserError(f"{self.name}: {value}")
        return value

    def _ended(self) -> UserError:
        self._process.join(PATIENCE)
        return UserError(f"{self.name}: its process ended with code {self._process.exitcode}; -9 is what a system "
                         "that runs out of memory does: measure one engine at a time with --engine")  # fmt: skip
