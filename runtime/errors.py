"""The exceptions that a user is meant to read, and how they are told."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

LONGEST_LINE = 1000  # characters told of an error: what it quotes may come from a file of any length


class UserError(Exception):
    """Bad input or a full disk: one line that names the cause and the fix. Commands print it and exit with its code."""

    exit_code = 2


class MissingPackage(UserError):
    """A package that only some work needs is not installed, or not in the release that it needs."""


class EngineError(UserError):
    """An engine fails on the files of a bundle, in words of its own."""


class GateError(UserError):
    """A bundle that does not hold its gates."""

    exit_code = 1


@contextmanager
def bad_input_told() -> Iterator[None]:
    """Around a command: in one line on stderr, with the exit code that it has."""
    try:
        yield
    except UserError as error:
        told, code = one_line(error), error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:
        told, code = f"{one_line(error)}: check the path, its rights and the disk", UserError.exit_code
    except MemoryError:
        told, code = "there is not enough memory: close other programs, or use a larger machine", UserError.exit_code
    else:
        return
    typer.echo(f"error: {told}", err=True)
    raise typer.Exit(code)


def one_line(error: object, longest: int = LONGEST_LINE) -> str:
    """What an error says, or its type if it says nothing; without what would break the line, or a terminal."""
    text = str(error) or type(error).__name__
    told = printable(" ".join(text[: 2 * longest].split()))
    return told if len(told) <= longest else f"{told[:longest]}..."


def first_line(error: BaseException) -> str:
    """Of what a library says, which often goes on with details."""
    return one_line(next(filter(None, str(error).splitlines()), type(error).__name__), LONGEST_LINE // 4)


def printable(text: object) -> str:
    """Escapes in place of control characters and of bytes of file names that are no UTF-8."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in str(text))
