"""What tests share: the embedded model, its quantized checkpoint and a verified bundle, made once."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from filelock import FileLock
from typer.testing import CliRunner

from export.__main__ import app
from export.models import EMBEDDED
from export.schemes import INT4
from runtime.sessions import genai, onnx
from tests.fuzz.targets import manifest_facts
from tests.refusals import HELD, write

if TYPE_CHECKING:
    from tests.executorch_models import Lowered

NAME = "tiny-int4"
# Begun first, the heaviest before all others, so that no worker is left alone with one of them. The second makes a
# bundle that the first asks for late.
LONGEST = (
    "test_executorch_lowering.py", "test_inspect.py", "test_export.py", "test_coreml_bundle.py", "test_executorch.py",
    "test_context.py", "test_weight_cache.py", "test_verify.py", "test_calibration.py", "test_conversation.py",
    "test_gemma3.py", "test_coreml.py", "test_onnx.py", "test_streamed.py", "test_full_size.py", "test_docs.py",
    "test_vectors.py", "test_mil_operators.py", "test_prompt_parity.py", "test_budget.py", "test_references.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reorders files, not what is in them."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Unless more are asked for. Small tensors gain nothing from them, and threads of two engines get in each other's
    way: those of onnxruntime spin while they wait, which took a quarter of the processor's time of test_onnx.py.
    """
    torch.set_num_threads(1)
    options, config = onnx._options, genai._engine_config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "_options", lambda threads: options(threads or 1))
        patch.setattr(genai, "_engine_config", lambda folder, threads: config(folder, threads or 1))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    return EMBEDDED["tiny"]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `python -m export --target desktop` writes: build/ and dist/."""
    folder = shared_folder(tmp_path_factory) / "exported"
    once(folder, lambda: export_to(folder, "--target", "desktop"))
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
    options = "--target", "android", "--recipe", "int4", "--formats", "executorch", "--data-file"
    once(exported.with_name("executorch"), lambda: export_to(exported, *options))
    return exported / "dist" / "android" / NAME


@pytest.fixture(scope="session")
def coreml_bundle(exported: Path) -> Path:
    """Of the same quantized checkpoint. Not to be changed. The evaluator copies a state, as long as the context, in
    every step: a shorter one is verified sooner, and still far longer than the window."""
    once(exported.with_name("coreml"), lambda: export_to(exported, "--target", "ios", "--context", "1024"))
    return exported / "dist" / "ios" / NAME


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> "Lowered":
    """Two random layers with int8 activations, as an ExecuTorch program. Not to be changed."""
    return lower_shallow(tmp_path_factory, "shallow", data_file=False)


@pytest.fixture(scope="session")
def shallow_apart(tmp_path_factory: pytest.TempPathFactory) -> "Lowered":
    """The same with its weights in a data file."""
    return lower_shallow(tmp_path_factory, "shallow_apart", data_file=True)


def lower_shallow(tmp_path_factory: pytest.TempPathFactory, name: str, data_file: bool) -> "Lowered":
    from tests.executorch_models import SHALLOW, Lowered  # only where it is needed: it loads ExecuTorch

    return Lowered(shared_folder(tmp_path_factory) / name, INT4, data_file=data_file, once=once, **SHALLOW)


def export_to(folder: Path, *options: str) -> None:
    places = ["--build", str(folder / "build"), "--dist", str(folder / "dist")]
    result = CliRunner().invoke(app, [*options, *places])
    assert result.exit_code == 0, result.output


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this run, for all its workers."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def once(thing: Path, make: Callable[[], object]) -> None:
    """By the worker that asks first; the others wait for it."""
    done = thing.with_suffix(".made")
    with FileLock(thing.with_suffix(".lock")):
        if not done.exists():
            make()
            done.touch()


@pytest.fixture
def bundle_copy(bundle: Path, tmp_path: Path) -> Path:
    """To be changed."""
    return shutil.copytree(bundle, tmp_path / NAME)


@pytest.fixture
def thin_bundle(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """With a manifest and what prompts need, and no artifact: what is refused here is refused before one is opened."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in HELD:
        shutil.copyfile(tiny_checkpoint / name, folder / name)
    write(folder, manifest_facts())
    return folder


@pytest.fixture
def checkpoint_copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
