"""Atheris' loop around a target."""

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory


def instrumented(*packages: str) -> AbstractContextManager[None]:
    """Imports of these packages inside report which lines run; those written in C do not."""
    import atheris  # no wheel of it for every Python

    return atheris.instrument_imports(include=list(packages))


def fuzz(target: Callable[[bytes], None], seeds: Iterable[bytes]) -> None:
    """Until libFuzzer's options end it. An exception ends it at once and leaves the input in a file.

    Args:
        seeds: valid files, which it mutates.
    """
    import atheris

    with TemporaryDirectory() as corpus:
        for index, seed in enumerate(seeds):
            (Path(corpus) / str(index)).write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], target)
        atheris.Fuzz()
