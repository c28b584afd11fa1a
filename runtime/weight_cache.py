"""XNNPACK's cache of packed weights on disk, for ExecuTorch in Python.

XNNPACK packs the weights of a program anew whenever it is loaded, into memory that no file backs. With the cache they
are packed once, into a file that later loads map. Two options switch it on for a method that is loaded; Python's API
cannot give them, so a small library is compiled at first use that passes them on.

Apps need no such library, but give the options themselves; the manifest names them (`load_options`), the path relative
to a folder of the app's choice, at most 255 bytes long in all. With ExecuTorch 1.5 that takes `Module`: on iOS

    let options = [BackendOption("weight_cache_enabled", true), BackendOption("packed_cache_path", path)]
    try module.load(options: BackendOptionsMap(options: ["XnnpackBackend": options]))

and in C++, which Android's apps call through JNI, as Kotlin's BackendOptionsMap knows numbers alone,

    executorch::runtime::BackendOptions<2> options;
    options.set_option("weight_cache_enabled", true);
    options.set_option("packed_cache_path", path);
    executorch::runtime::LoadBackendOptionsMap backends;
    backends.set_options("XnnpackBackend", options.view());
    module->load(backends);  // it keeps a copy, for all methods that it loads later

`LlmModule` and Swift's `MultimodalRunner` make a Module of their own and pass no options. The C++ MultimodalRunner
takes one that has them: make it of the parts that `create_multimodal_runner` makes it of.

The engine looks packed weights up by the sha256 of their codes; scales do not count, though they are packed as well. So
a file must never serve two artifacts, and carries the artifact's identity in its name.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from runtime.errors import UserError
from runtime.manifest import LoadOptions

SOURCE = Path(__file__).parent / "native" / "weight_cache.cpp"
VERSION = "1.5.1"  # of ExecuTorch: kernels, the file's format and the symbol that the library stands in for
ENGINE = "libexecutorch.so"
HEADS = {b"eh00": 24, b"FH01": 32}  # by the mark at byte 8 of a .pte and a .ptd: where the length of its head stands
LONGEST = 255  # bytes of a path that an option holds


def cache_name(files: Iterable[Path]) -> str:
    """Of the cache of an artifact: a digest of the heads of its `.pte` and `.ptd`, which hold each weight's sha256.

    Raises:
        UserError: a file is no program or data of ExecuTorch.
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update(_head(path))
    return f"{digest.hexdigest()[:32]}.xnnpack"


def load_options(path: str) -> LoadOptions:
    """What to load methods with, by backend, for a cache at a path."""
    return {"XnnpackBackend": {"weight_cache_enabled": True, "packed_cache_path": path}}


def _head(path: Path) -> bytes:
    """All before the first segment."""
    with path.open("rb") as file:
        start = file.read(64)
        place = HEADS.get(start[8:12])
        if place is None:
            raise UserError(f"{path} is no file of ExecuTorch's: export the bundle again")
        return start + file.read(int.from_bytes(start[place : place + 8], "little") - len(start))


class WeightCache:
    """The cache of one artifact."""

    def __init__(self, folder: Path, files: Iterable[Path]) -> None:
        """Makes the folder; what is in it may be deleted at any time that no process uses it.

        Args:
            files: of the artifact.

        Raises:
            UserError: the path is too long, there is no compiler, ExecuTorch is of another version or loaded already.
        """
        self.path = folder.resolve() / cache_name(files)
        if len(os.fsencode(self.path)) > LONGEST:
            raise UserError(f"{self.path} is longer than {LONGEST} bytes: choose a weight_cache with a shorter path")
        self._library = _library()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"weight_cache {folder} cannot be made ({error}): choose another folder") from None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Methods loaded meanwhile take their packed weights from the file, or write it.

        The engine locks a file until the process ends; another process does without meanwhile. Where the first load is
        killed, the file stays as far as it came, and the rest is packed in memory: delete it to have it written again.
        """
        self._library.set_weight_cache(os.fsencode(self.path))
        try:
            yield
        finally:
            self._library.set_weight_cache(None)


@cache
def _library() -> ctypes.CDLL:
    """In the global scope, where ExecuTorch's Python module looks before it looks in ExecuTorch."""
    if sys.platform != "linux":
        raise UserError("weight_cache works on Linux alone: leave it out")
    _require_version()
    if _is_loaded(ENGINE):
        raise UserError("ExecuTorch is loaded already and weight_cache comes too late: "
                        "use it in a process of its own, before anything imports executorch")  # fmt: skip
    library = ctypes.CDLL(str(_compiled()), mode=ctypes.RTLD_GLOBAL)
    library.set_weight_cache.argtypes = [ctypes.c_char_p]
    return library


def _require_version() -> None:
    try:
        found = version("executorch")
    except PackageNotFoundError:
        raise UserError(f"ExecuTorch is not installed: pip install executorch=={VERSION}") from None
    if found != VERSION:
        raise UserError(f"executorch {found} is installed, weight_cache knows {VERSION}: leave it out, "
                        f"or pip install executorch=={VERSION}")  # fmt: skip


def _is_loaded(library: str) -> bool:
    try:
        ctypes.CDLL(library, mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    return True


def _compiled() -> Path:
    """The library, compiled unless it is there for this source and this ExecuTorch."""
    key = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    made = caches / "gemma4-edge" / f"weight_cache-{VERSION}-{key}.so"
    if not made.exists():
        _compile(made)
    return made


def _compile(made: Path) -> None:
    """Beside it, and renamed when it is whole."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise UserError("weight_cache needs a C++ compiler: install g++ or clang, name one in CXX, or leave it out")
    made.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=made.parent) as folder:
        out = Path(folder) / made.name
        command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", *_headers(), str(SOURCE), "-o", str(out)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = (getattr(error, "stderr", "") or str(error)).splitlines()[0]
            raise UserError(f"{compiler} does not compile {SOURCE} ({reason}): "
                            "name another compiler in CXX, or leave weight_cache out") from None  # fmt: skip
        out.rename(made)


def _headers() -> list[str]:
    """Of the installed ExecuTorch, which brings its own copy of torch's c10."""
    found = find_spec("executorch")
    assert found and found.submodule_search_locations
    include = Path(next(iter(found.submodule_search_locations))) / "include"
    c10 = include / "executorch" / "runtime" / "core" / "portable_type" / "c10"
    return ["-I", str(include), "-I", str(c10), "-DC10_USING_CUSTOM_GENERATED_MACROS"]
