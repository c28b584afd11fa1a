"""Disks that fill up while calibration, goldens or logits are written: one line each, and a run that goes on later."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from export.calibration import streamed
from export.calibration.corpus import LENGTH
from export.models import EMBEDDED
from export.recipes import RECIPES
from export.sources import open_source
from runtime import goldens
from runtime.errors import UserError
from runtime.goldens import Golden
from runtime.scratch import scratch
from runtime.sessions.base import ModelInputs

TINY = EMBEDDED["tiny"]
LARGEST = 100_000  # bytes
FILL = """
from runtime.scratch import scratch
from runtime.errors import bad_input_told
with bad_input_told():
    scratch({rows}, 1000)[:] = 1
"""
PLAIN = """
import numpy, tempfile
numpy.memmap(tempfile.TemporaryFile(), "f4", "w+", shape=(1000, 1000))[:] = 1
"""


@contextmanager
def small_files() -> Iterator[None]:
    """While it lasts, files end where a full disk would end them: Python ignores SIGXFSZ."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_calibration_goes_on_when_there_is_room(tmp_path: Path) -> None:
    rng, recipe = np.random.default_rng(0), RECIPES["int4-weighted"]
    sequences = [ModelInputs(rng.integers(20, 200, LENGTH))]
    streamed.calibrate(open_source(TINY), recipe, sequences, tmp_path / "whole")
    with (
        small_files(),
        pytest.raises(UserError, match=r"flows-00000.* cannot be written \(.*\): make room on its disk"),
    ):
        streamed.calibrate(open_source(TINY), recipe, sequences, tmp_path / "out")
    assert not list((tmp_path / "out").glob("flows-*")), "no half of a file has its name"
    streamed.calibrate(open_source(TINY), recipe, sequences, tmp_path / "out")
    found, wanted = ({path.name: path.read_bytes() for path in (tmp_path / name).glob("[hl]*.safetensors")}
                     for name in ("out", "whole"))  # fmt: skip
    assert len(found) == 13 and found == wanted


def test_goldens(tmp_path: Path) -> None:
    (tmp_path / goldens.FOLDER).mkdir()
    ids, logits = np.zeros((1, 2), np.int64), np.zeros((1, 2), np.float32)
    pixels = np.ones((1, LARGEST, 3), np.float32)
    golden = Golden("a", "image", [], "", ModelInputs(np.array([2]), pixels), [1], [1.0], ids, logits)
    with small_files(), pytest.raises(UserError, match=r"goldens/a\.safetensors cannot be written .*: make room"):
        goldens.write(golden, tmp_path)
    entry = goldens.write(golden, tmp_path)
    assert np.array_equal(goldens.read(entry, tmp_path).inputs.arrays()["pixel_values"], pixels), "control"


# Scratch files


def on_a_small_disk(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Python with a megabyte of temporary files."""
    script = 'mount -t tmpfs -o size=1m none "$TMPDIR" && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    if not shutil.which("unshare") or on_a_small_disk(tmp_path, "").returncode:
        pytest.skip("no right to mount a file system")
    return tmp_path


def test_a_small_disk_for_temporary_files(small: Path) -> None:
    assert on_a_small_disk(small, PLAIN).returncode in (-7, 135), "control: SIGBUS"
    run = on_a_small_disk(small, FILL.format(rows=1000))
    assert run.returncode > 0 and f"{small} does not take" in run.stderr and "with TMPDIR" in run.stderr
    assert on_a_small_disk(small, FILL.format(rows=100)).returncode == 0, "control: it fits"


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="macOS cannot reserve")
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_room_is_reserved_where_it_can_be(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def fails(file: int, start: int, size: int) -> None:
        assert (start, size) == (0, 4 * 3 * 5)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "posix_fallocate", fails)
    if error == errno.EOPNOTSUPP:
        assert not scratch(3, 5).any()
        return
    with pytest.raises(UserError, match=r"No space left on device\): make room there, or name a folder"):
        scratch(3, 5)


def test_without_reserving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    assert not scratch(3, 5).any()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_nothing_takes_no_room(shape: tuple[int, int]) -> None:
    assert scratch(*shape).shape == shape and scratch(*shape).dtype == np.float32
