"""Folders that appear whole or not at all: work goes on beside them and is renamed into place."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from runtime.errors import UserError


@contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Holds the only right to make `folder`; yields the folder beside it to work in, which outlives a failed run.

    Raises:
        UserError: another run makes it now, or its parent cannot be written.
    """
    lock = folder.parent / f".{folder.name}.lock"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        opened = lock.open("w")
    except OSError as error:
        raise UserError(f"{folder.parent} cannot be written ({error.strerror}): choose another folder") from None
    with opened:
        if not _take(opened, lock):
            raise UserError(f"another run is writing {folder}: wait for it, or choose another folder")
        try:
            yield unfinished(folder)
        finally:
            lock.unlink(missing_ok=True)


def unfinished(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.partial"


def _take(opened: IO[str], lock: Path) -> bool:
    """Whether the lock is ours; a run that was just ending may have removed the file between our opening and taking."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(opened.fileno()), lock.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def put_in_place(partial: Path, folder: Path) -> None:
    """Renames finished work to its name; what had that name goes only when the new one is there."""
    old = folder.parent / f".{folder.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raises UserError unless the disk of `folder` (which need not exist yet) has `needed` bytes free.

    What an interrupted run left there is part of them.
    """
    needed = max(0, needed - bytes_in(unfinished(folder)))
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(f"{purpose} needs {gigabytes(needed)} on the disk of {folder}, {gigabytes(free)} are free: "
                        "make room or choose another folder")  # fmt: skip


def bytes_in(folder: Path) -> int:
    """On the disk, of what is to stay; none if there is no such folder."""
    stays = (path for path in folder.rglob("*") if not any(part[0] == "." for part in path.relative_to(folder).parts))
    return sum(512 * path.lstat().st_blocks for path in stays)


def require_bundle(folder: Path, manifest: str) -> None:
    """Raises UserError if what is to be replaced holds something, but no manifest of that name."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / manifest).is_file():
        raise UserError(f"{folder} holds files, but no bundle to replace: choose another folder, or empty it")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another folder")


def gigabytes(count: int) -> str:
    """For people."""
    return f"{count / 1e9:.2f} GB"


def write_atomically(path: Path, text: str) -> None:
    """A small file, whole or not at all."""
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(text)
    beside.replace(path)
