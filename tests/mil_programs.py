"""Small Core ML packages, written with coremltools' MIL builder."""

import contextlib
import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runtime.coreml_tools import coremltools

ct = coremltools()
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.converter import mil_convert  # noqa: E402
from coremltools.converters.mil.mil import Function, Program, types  # noqa: E402

Var = Any  # a value of a MIL program
Describe = Callable[[Mapping[str, Var]], Mapping[str, Var]]  # inputs -> outputs, by name
IOS16, IOS18 = ct.target.iOS16, ct.target.iOS18


def function(specs: Mapping[str, Any], describe: Describe, target: Any = IOS18) -> Any:
    """
    Args:
        specs: of inputs and states, from `tensor` and `state`.
    """
    with Function(dict(specs), opset_version=target) as built:
        outputs = describe(dict(built.inputs))
        built.set_outputs([mb.identity(x=value, name=name) for name, value in outputs.items()])
    return built


def tensor(*shape: int, dtype: Any = types.fp16) -> Any:
    return mb.TensorSpec(shape, dtype)


def state(*shape: int) -> Any:
    return mb.StateTensorSpec(shape, types.fp16)


def constant(value: Any, name: str) -> Var:
    """Functions of a package share it by its name."""
    found = mb.const(val=value, name=name)
    found.op.weight_id = name
    return found


def save(functions: Mapping[str, Any], path: Path, target: Any = IOS18, passes: Any = None) -> Path:
    """A package; one of several functions runs the first by default. No passes, unless given."""
    program = Program()
    several = len(functions) > 1
    for name, built in functions.items():
        program.add_function(name if several else "main", built)
    program.default_function_name = next(iter(functions)) if several else "main"
    program.export_as_multifunction = several
    with contextlib.redirect_stderr(io.StringIO()):  # bars of progress
        model = mil_convert(
            program, convert_to="mlprogram", convert_from="milinternal", specification_version=target,
            compute_units=ct.ComputeUnit.CPU_ONLY, pass_pipeline=passes or ct.PassPipeline.EMPTY,
            skip_model_load=True, export_multi_functions=several,
        )  # fmt: skip
        shutil.rmtree(path, ignore_errors=True)
        model.save(str(path))
    return path


def model_file(package: Path) -> Path:
    return package / "Data/com.apple.CoreML/model.mlmodel"


def weight_file(package: Path) -> Path:
    return package / "Data/com.apple.CoreML/weights/weight.bin"
