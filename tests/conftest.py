"""What tests share: the embedded model, its quantized checkpoint and a verified bundle, made once."""

import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from export.__main__ import app
from export.models import EMBEDDED

NAME = "tiny-int4"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small tensors gain nothing from more, and threads of two engines get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    return EMBEDDED["tiny"]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `python -m export --target desktop` writes: build/ and dist/."""
    folder = tmp_path_factory.mktemp("exported")
    places = ["--build", str(folder / "build"), "--dist", str(folder / "dist")]
    result = CliRunner().invoke(app, ["--target", "desktop", *places])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def quantized_checkpoint(exported: Path) -> Path:
    return exported / "build" / "quantized" / NAME


@pytest.fixture(scope="session")
def bundle(exported: Path) -> Path:
    """Not to be changed."""
    return exported / "dist" / "desktop" / NAME


@pytest.fixture(scope="session")
def executorch_bundle(exported: Path) -> Path:
    """Of the same quantized checkpoint, with its weights in a data file. Not to be changed."""
    places = ["--build", str(exported / "build"), "--dist", str(exported / "dist")]
    result = CliRunner().invoke(app, ["--target", "android", "--formats", "executorch", "--data-file", *places])
    assert result.exit_code == 0, result.output
    return exported / "dist" / "android" / NAME


@pytest.fixture(scope="session")
def coreml_bundle(exported: Path) -> Path:
    """Of the same quantized checkpoint. Not to be changed."""
    places = ["--build", str(exported / "build"), "--dist", str(exported / "dist")]
    result = CliRunner().invoke(app, ["--target", "ios", *places])
    assert result.exit_code == 0, result.output
    return exported / "dist" / "ios" / NAME


@pytest.fixture
def bundle_copy(bundle: Path, tmp_path: Path) -> Path:
    """To be changed."""
    return shutil.copytree(bundle, tmp_path / NAME)
