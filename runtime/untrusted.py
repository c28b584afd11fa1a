"""Files that may come from anywhere: read within bounds, inside their folder, and refused in one line."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.errors import UserError, first_line, printable

# The largest JSON that is read here, the 12B's record of its quantization, is smaller than a megabyte; Python makes up
# to 25 bytes of objects out of each byte.
JSON_BYTES = 8 << 20


def read_json(path: Path, fix: str, limit: int = JSON_BYTES) -> Any:
    """
    Args:
        fix: what to do about a file that is not as it should be, for the error's line.

    Raises:
        UserError: it is missing, no file, cannot be read, is larger than `limit` bytes, or is not JSON.
    """
    try:
        return json.loads(read_bytes(path, fix, limit))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({first_line(error)}): {fix}") from None


def read_object(path: Path, fix: str, limit: int = JSON_BYTES) -> dict[str, Any]:
    """Raises:
    UserError: as `read_json`, or it is JSON of another kind.
    """
    found = read_json(path, fix, limit)
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object: {fix}")
    return found


def read_bytes(path: Path, fix: str, limit: int = JSON_BYTES) -> bytes:
    """Raises:
    UserError: it is missing, no file, cannot be read, or is larger than `limit` bytes.
    """
    require_file(path, fix)
    try:
        with path.open("rb") as opened:
            data = opened.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {fix}") from None
    if len(data) > limit:
        raise UserError(f"{path} has more than {limit >> 20} MiB, which no such file needs: {fix}")
    return data


def require_file(path: Path, fix: str, limit: int | None = None) -> None:
    """Raises:
    UserError: nothing there, no regular file (a pipe would be waited for without end), or one of more bytes.
    """
    try:
        found = path.is_file()
        reason = "is missing" if not path.exists() else "is a folder" if path.is_dir() else "is no regular file"
        if found and limit is not None and path.stat().st_size > limit:
            found, reason = False, f"has more than {limit >> 20} MiB, which no such file needs"
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte in it
        found, reason = False, f"cannot be opened ({first_line(error)})"
    if not found:
        raise UserError(f"{path} {reason}: {fix}")


def require_inside(folder: Path, name: str, fix: str) -> Path:
    """The file of a name in a folder, which need not be there.

    Raises:
        UserError: the name is absolute or leads out of the folder, by `..` or by a link.
    """
    if not is_plain(name):
        raise UserError(f"{folder}: {printable(name)!r} is no path inside the folder: {fix}")
    try:
        within = (folder / name).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links in a circle; a name that is too long
        within = False
    if not within:
        raise UserError(f"{folder}: {name!r} is a link out of the folder: put the file itself there, or {fix}")
    return folder / name


def is_plain(name: str) -> bool:
    """Whether a name is relative, with forward slashes, and leads no higher than where it starts."""
    path = PurePosixPath(name)
    higher = path.is_absolute() or ".." in path.parts
    return bool(path.parts) and name.isprintable() and "\\" not in name and not higher
