"""Changes to ExecuTorch's private internals: each in a file of its own, undone when lowering ends.

They were written against one version, refuse any other, and tests show that none of them changes a byte of a `.pte`,
but for the one that stores shared data once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from runtime.errors import UserError
from runtime.sessions.executorch import VERSION


def require_version() -> None:
    """Raises:
    UserError: another ExecuTorch is installed.
    """
    found = version("executorch")
    if found != VERSION:
        raise UserError(f"executorch {found} is installed, the lowering knows the internals of {VERSION}: "
                        f"pip install executorch=={VERSION}")  # fmt: skip


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """While it lasts, an attribute of a module or class is another.

    Raises:
        UserError: another ExecuTorch is installed.
        AttributeError: there is no such attribute to replace.
    """
    require_version()
    there, missing = vars(owner).get(name), object()
    if vars(owner).get(name, missing) is missing:
        raise AttributeError(f"{owner} has no {name} of its own: is this executorch {VERSION}?")
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, there)
