"""Swift on Linux: what is on PATH, or Debian's, in a folder of its own that later runs use again.

Debian's package `swiftlang` has the compiler, XCTest, Swift Testing and swift-format. It is unpacked by debootstrap
(about 550 MB to download, 3 GB on disk, a few minutes, once) and run in there, so that nothing else of the system
changes.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from ios_demo.checks.results import console
from runtime.errors import UserError, one_line

SUITE = "trixie"
PACKAGES = "swiftlang", "libc6-dev", "libstdc++-14-dev"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gemma4-edge"
APT_LOCK = Path(tempfile.gettempdir()) / "gemma4-edge-apt.lock"  # of the Android checks as well: apt fails if in use
ENTER_FOLDER = 'cd "$0" && exec "$@"'
# Its own mounts and processes, which end with it: root, folders in sight, working folder, command.
ENTER = """
root=$1 sight=$2 folder=$3; shift 3
mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" || exit
mkdir -p "$root$sight" && mount --bind "$sight" "$root$sight" || exit
exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/root sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""


@dataclass(frozen=True)
class Toolchain:
    """How to run Swift's commands."""

    root: Path | None  # of Debian's; None: what is on PATH
    sight: Path  # folder that commands see, at its own path

    def command(self, *words: str, folder: Path) -> list[str]:
        """For subprocess, to be run in a folder in sight."""
        if self.root is None:
            return ["sh", "-c", ENTER_FOLDER, str(folder), *words]
        return ["unshare", "--mount", "--pid", "--fork", "sh", "-c", ENTER, "sh",
                str(self.root), str(self.sight), str(folder), *words]  # fmt: skip

    def run(self, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """To its end; what it says on either stream is in `stdout`."""
        return subprocess.run(self.command(*words, folder=folder), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def find_toolchain(sight: Path) -> Toolchain:
    """Raises:
    UserError: there is none, and it cannot be installed here.
    """
    if shutil.which("swift"):
        return Toolchain(None, sight)
    root = CACHE / f"swift-{SUITE}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"swift-{SUITE}.lock"):
        if not root.exists():
            _install(root)
    return Toolchain(root, sight)


def _install(root: Path) -> None:
    """Beside, then renamed: a folder of this name is whole."""
    _require_debootstrap()
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    words = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(partial)]
    with subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        last = _follow(process)
    if process.returncode:
        raise UserError(f"debootstrap failed ({one_line(last)}); `{' '.join(words)}` shows all of it")
    for package in (partial / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    partial.rename(root)


def _follow(process: subprocess.Popen[str]) -> str:
    """Shows what it is at; returns its last line."""
    assert process.stdout
    line = ""
    with console.status("installing Swift") as status:
        for line in process.stdout:
            status.update(f"installing Swift: {line.strip()}")
    return line


def _require_debootstrap() -> None:
    if os.geteuid() != 0:
        raise UserError("only root can install Debian's Swift in a folder: run `make test-ios` as root, or install "
                        "Swift 6 so that `swift` is on PATH")  # fmt: skip
    if not shutil.which("debootstrap") and shutil.which("apt-get"):
        with FileLock(APT_LOCK):
            for words in ("update", "install --yes --no-install-recommends debootstrap"):
                subprocess.run(["apt-get", "--quiet", "--quiet", *words.split()], stdout=subprocess.DEVNULL)
    if not shutil.which("debootstrap") or not shutil.which("unshare"):
        raise UserError("debootstrap and unshare are missing: install them, or Swift 6 so that `swift` is on PATH")
