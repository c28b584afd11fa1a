"""Native libraries that print to the terminal, kept from doing so."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """While it lasts, what this process writes to stdout and stderr goes nowhere, native code's lines included."""
    sys.stdout.flush(), sys.stderr.flush()
    saved = [os.dup(stream) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C's own buffers would be written later
        for stream, usual in zip((1, 2), saved, strict=True):
            os.dup2(usual, stream)
        for descriptor in (*saved, nowhere):
            os.close(descriptor)
