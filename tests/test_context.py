"""The longest context that the 12B was made for costs memory where it is used, and nothing in the files."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from export.lowering.onnx_program import write_onnx
from export.schemes import INT4
from runtime.readback_executorch import ExecutorchWeights
from runtime.sessions.onnx import CONFIG
from tests import coreml_models, executorch_models
from tests import random_models as models
from tests.executorch_models import SHALLOW
from tests.parity import quantize
from tests.test_onnx import TINY

SHORT, LONG = 1024, 262144
STEP = 8  # keeps the scores of a step small
TOLERANCE = 4096  # bytes, for longer numbers in names that converters count up; not even a bit for each position


def write(format_: str, folder: Path, context: int) -> int:
    """A text model of two layers; returns what an engine makes room for: positions, or bytes or values of them."""
    config = models.random_config(vision=False, audio=False, **SHALLOW, max_position_embeddings=LONG)
    model, weights = quantize(models.random_model(config), INT4)
    folder.mkdir()
    if format_ == "onnx":
        write_onnx(model, weights, TINY, folder, context)
        room: int = json.loads((folder / CONFIG).read_text())["search"]["max_length"]
        return room
    if format_ == "executorch":
        sizes = replace(executorch_models.SIZES, context=context, step=STEP)
        return ExecutorchWeights(executorch_models.lower(model, weights, folder, sizes=sizes)).planned_bytes()
    packages = coreml_models.write(model, weights, folder, replace(coreml_models.SIZES, context=context, prefill=STEP))
    states = (port for program in packages.programs.values() for port in program.states)
    return max(math.prod(map(int, port.shape)) for port in states)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("format_", ["onnx", "executorch", "coreml"])
def test_files_do_not_grow(tmp_path: Path, format_: str) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    room = write(format_, long, LONG) - write(format_, short, SHORT)
    assert abs(size_of(long) - size_of(short)) < TOLERANCE
    assert room >= LONG - SHORT, "control: it is another context"
