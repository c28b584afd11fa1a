"""Packed weights on disk give the logits of weights packed in memory, are read and not written again, and never of
another model. Models are loaded in processes of their own, as the cache must be there before ExecuTorch is."""

import shutil
import subprocess
import sys
from pathlib import Path

import executorch.kernels.quantized  # noqa: F401  loads ExecuTorch into this process
import numpy as np
import pytest
from numpy.typing import NDArray

from export.lowering.executorch_streams import linear_scales
from export.schemes import INT4
from export.weights import Packed
from runtime import weight_cache
from runtime.errors import UserError
from runtime.sessions import executorch as engine
from runtime.sessions.executorch import artifact_files
from runtime.weight_cache import WeightCache, cache_name
from tests.executorch_models import Lowered

RESCALED = "model.language_model.layers.0.mlp.up_proj.weight"
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler to build runtime/native with"
)


class Made:
    """Two artifacts whose int4 codes are the same and whose scales are not."""

    def __init__(self, folder: Path, lowered: Lowered) -> None:
        self.cache = folder / "cache"
        self.folders = folder / "first", folder / "rescaled"
        for made in self.folders:
            made.mkdir()
        program, packed = (lowered.folder / engine.FILE).read_bytes(), lowered.weights.packed(RESCALED)
        assert packed
        (self.folders[0] / engine.FILE).write_bytes(program)
        (self.folders[1] / engine.FILE).write_bytes(doubled(program, packed))
        self.files = [self.cache / cache_name(artifact_files(made)) for made in self.folders]

    def run(self, out: Path, *cached: tuple[int, bool]) -> tuple[list[NDArray[np.float32]], str]:
        """Logits of artifacts by their number, with or without the cache, and the mapped files."""
        places = [f"{self.folders[number]}:{self.cache if cache else ''}" for number, cache in cached]
        command = [sys.executable, "-m", "tests.weight_cache_child", str(out), *places]
        maps = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        with np.load(out) as found:
            return [found[name] for name in found.files], maps


def doubled(program: bytes, packed: Packed) -> bytes:
    """With other scales of a weight, and another name of them: what lowering would make of it."""
    other = Packed(INT4, packed.codes, packed.scales * 2)
    old, new = linear_scales(INT4, lambda: packed), linear_scales(INT4, lambda: other)
    assert program.count(old.to_bytes()) == 1
    return program.replace(old.to_bytes(), new.to_bytes()).replace(old.name.encode(), new.name.encode())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shallow: Lowered) -> Made:
    return Made(tmp_path_factory.mktemp("made"), shallow)


@pytest.fixture(scope="module")
def written(made: Made, tmp_path_factory: pytest.TempPathFactory) -> list[NDArray[np.float32]]:
    """Logits at the load that writes the cache and without it, of the first and of the second artifact."""
    runs = (0, True), (0, False), (1, True), (1, False)  # a cache must be there before ExecuTorch is
    return made.run(tmp_path_factory.mktemp("written") / "logits.npz", *runs)[0]


@needs_compiler
def test_the_load_that_writes_gives_the_same_logits(made: Made, written: list[NDArray[np.float32]]) -> None:
    assert np.array_equal(written[0], written[1])
    assert np.array_equal(written[2], written[3])
    assert sorted(made.cache.iterdir()) == sorted(made.files)
    assert all(file.stat().st_size > 100_000 for file in made.files)


@needs_compiler
def test_later_loads_read_the_file(made: Made, written: list[NDArray[np.float32]], tmp_path: Path) -> None:
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in made.files]
    logits, maps = made.run(tmp_path / "logits.npz", (0, True), (1, True))
    assert np.array_equal(logits[0], written[0])
    assert np.array_equal(logits[1], written[2])
    assert all(str(file) in maps for file in made.files)
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in made.files] == before


@needs_compiler
def test_damaged_files_are_written_again_and_control_foreign_ones_are_used(
    made: Made, written: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    """The engine tells no artifact from another with the same codes: only the file's name does."""
    assert not np.array_equal(written[0], written[2])
    whole = [file.read_bytes() for file in made.files]
    made.files[0].write_bytes(whole[0][:-1000])
    made.files[1].write_bytes(whole[0])
    logits, _ = made.run(tmp_path / "logits.npz", (0, True), (1, True))
    assert np.array_equal(logits[0], written[0])
    assert np.array_equal(logits[1], written[0])
    assert len(made.files[0].read_bytes()) == len(whole[0])
    made.files[1].write_bytes(whole[1])


def test_other_scales_are_another_file(made: Made) -> None:
    assert made.files[0] != made.files[1]


def test_too_late_is_said(made: Made) -> None:
    with pytest.raises(UserError, match="ExecuTorch is loaded already"):
        engine.ExecutorchSession(made.folders[0], weight_cache=made.cache)


def test_versions_and_files_that_do_not_fit_are_named(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="longer than 255 bytes"):
        WeightCache(tmp_path / ("long" * 60), artifact_files(made.folders[0]))
    (tmp_path / engine.FILE).write_bytes(bytes(1000))
    with pytest.raises(UserError, match=r"model\.pte is no file of ExecuTorch's"):
        WeightCache(tmp_path, artifact_files(tmp_path))
    monkeypatch.setattr(weight_cache, "VERSION", "0.0.1")
    with pytest.raises(UserError, match=r"weight_cache knows 0\.0\.1"):
        WeightCache(tmp_path, artifact_files(made.folders[0]))


def test_compilers_that_fail_or_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(UserError, match="false does not compile"):
        weight_cache._compiled()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler does not compile"):
        weight_cache._compiled()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler"):
        weight_cache._compiled()
    assert not list(tmp_path.rglob("*.so*"))


@needs_compiler
def test_the_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = weight_cache._compiled()
    before = made.stat()
    assert weight_cache._compiled() == made
    assert (made.stat().st_ino, made.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(made.parent.iterdir()) == [made]
