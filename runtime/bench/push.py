"""Files onto a phone: resumed where they were cut, compared by sha256, left alone where they are there already."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import file_digest
from pathlib import Path
from posixpath import dirname
from shlex import quote
from typing import Literal

from runtime.bench.adb import CHUNK, Adb
from runtime.bench.progress import Expect
from runtime.errors import UserError
from runtime.units import size

Outcome = Literal["there", "resumed", "sent"]
TRIES = 2  # to send a file from its beginning


@dataclass(frozen=True)
class Local:
    """A file of this machine that the phone should have."""

    path: Path
    name: str  # in the phone's folder
    sha256: str

    @classmethod
    def of(cls, path: Path, name: str) -> "Local":
        return cls(path, name, digest(path))

    @property
    def size(self) -> int:
        return self.path.stat().st_size


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def push(adb: Adb, files: Sequence[Local], folder: str, expect: Expect) -> Counter[Outcome]:
    """How many files were there, resumed and sent.

    Args:
        folder: on the phone.
        expect: is told how many chunks there are to send, and calls for each.

    Raises:
        UserError: no room, a transfer that stopped, or a file that arrives damaged twice.
    """
    adb.shell("mkdir -p " + " ".join(sorted({quote(dirname(f"{folder}/{file.name}")) for file in files})))
    there = {file.name: adb.size(f"{folder}/{file.name}") for file in files}
    missing = sum(max(0, file.size - (there[file.name] or 0)) for file in files)
    require_room(adb, folder, missing)
    told = expect(-(-missing // CHUNK))
    return Counter(
        push_file(adb, file, f"{folder}/{file.name}", there[file.name], partial(told, file.name)) for file in files
    )


def push_file(adb: Adb, file: Local, path: str, found: int | None, told: Callable[[], None]) -> Outcome:
    """
    Args:
        path: on the phone.
        found: bytes that are there.
        told: called for each chunk.

    Raises:
        UserError: see `push`.
    """
    if found == file.size and remote_digest(adb, path) == file.sha256:
        return "there"
    if found and found < file.size:
        adb.append(file.path, found, path, told)
        if remote_digest(adb, path) == file.sha256:
            return "resumed"
    for _ in range(TRIES):
        adb.shell(f"rm -f {quote(path)}")
        adb.append(file.path, 0, path, told)
        if remote_digest(adb, path) == file.sha256:
            return "sent"
    raise UserError(f"{path} has another sha256 than {file.sha256[:12]}...: {_who_is_wrong(file)}")


def remote_digest(adb: Adb, path: str) -> str:
    return adb.shell(f"sha256sum {quote(path)}").split()[0]


def require_room(adb: Adb, folder: str, count: int) -> None:
    """Raises:
    UserError: the phone has no room for so many bytes.
    """
    columns = adb.shell(f"df -k {quote(folder)}").strip().splitlines()[-1].split()
    free = next((int(columns[at - 1]) * 1024 for at, cell in enumerate(columns) if cell.endswith("%")), None)
    if free is not None and free < count:
        raise UserError(f"the phone {adb.serial} has {size(free)} free in {folder} and {size(count)} are to come: "
                        "delete something there")  # fmt: skip


def _who_is_wrong(file: Local) -> str:
    if digest(file.path) != file.sha256:
        return f"{file.path} is not what the manifest says, export the bundle again"
    return "the phone's storage or the cable damages it, try another cable"
