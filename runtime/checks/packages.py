"""Would Core ML load and run the packages as they are meant? What can be told without it."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from runtime.coreml_tools import coremltools
from runtime.errors import UserError
from runtime.job import Job
from runtime.manifest import Measure
from runtime.mil.program import READ, WRITE, Function, Immediate, Name, Program, Type, read_program

FORMAT = "coreml"
LARGE = 1 << 20  # values of a weight
NAMED = 3  # faults spelled out


def run(job: Job) -> Iterator[Measure]:
    """Faults of all packages, and the size of the largest."""
    paths = sorted((job.bundle / FORMAT).glob("*.mlpackage"))
    job.status(f"checking {len(paths)} Core ML packages")
    host = job.manifest.artifacts[FORMAT].host
    found = [f"{path.name}: {fault}" for path in paths for fault in faults(path, host.minimum_ios if host else None)]
    note = "; ".join([*found[:NAMED], *[f"and {len(found) - NAMED} more"] * (len(found) > NAMED)])
    yield job.measure("packages", "packages_wrong", len(found), engine=FORMAT, note=note)
    largest = max(paths, key=size_of)
    yield job.measure("packages", "package_size", size_of(largest), engine=FORMAT, note=largest.name)


def size_of(path: Path) -> int:
    """Bytes of all files in a package."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def faults(path: Path, minimum_ios: str | None = None) -> list[str]:
    """What is wrong with a package; empty if nothing is.

    Args:
        minimum_ios: the oldest version of iOS that is promised to run it.
    """
    try:
        program = read_program(path)
        functions = program.functions.values()
    except UserError as error:
        return [str(error)]
    found = [*_version(program, minimum_ios), *_unparsed(program), *_undescribed(program)]
    for function in functions:
        parts = (_unavailable(program, function), _crossed(function), _inexact(function))
        found += [f"{function.name}: {fault}" for part in parts for fault in part]
    return found


def _version(program: Program, minimum_ios: str | None) -> Iterator[str]:
    target = _target(program)
    if minimum_ios and int(minimum_ios.partition(".")[0]) < int(target.removeprefix("iOS")):
        yield f"is for {target}, promised is iOS {minimum_ios}"


def _target(program: Program) -> str:
    """The oldest system that takes the package: "iOS18"."""
    from coremltools.converters.mil._deployment_compatibility import AvailableTarget

    return str(AvailableTarget(program.spec.specificationVersion).name)


def _unparsed(program: Program) -> Iterator[str]:
    """What coremltools' own parser refuses, which infers all types anew."""
    from coremltools.converters.mil.frontend.milproto.load import load

    version = program.spec.specificationVersion
    for name, function in program.spec.mlProgram.functions.items():
        alone = type(program.spec)(specificationVersion=version)
        alone.mlProgram.version = program.spec.mlProgram.version
        alone.mlProgram.functions[name].CopyFrom(function)
        try:
            with _large_weights_unread():
                load(alone, version, file_weights_dir=str(program.folder / "weights"))
        except Exception as error:  # asserts, KeyError, errors of the C++ reader
            yield f"{name} does not parse: {(str(error) or type(error).__name__).splitlines()[0]}"


@contextmanager
def _large_weights_unread() -> Iterator[None]:
    """The parser takes a byte for each int4 code, several times over; types need no values, and `bytes` reads them."""
    from coremltools.converters.mil.frontend.milproto import load as parser
    from coremltools.converters.mil.frontend.milproto.helper import proto_to_types
    from coremltools.converters.mil.mil import types

    usual = parser._load_value

    def load_value(context: Any, value: Any) -> Any:
        shape = [axis.constant.size for axis in value.type.tensorType.dimensions]
        if value.WhichOneof("value") != "blobFileValue" or math.prod(shape) < LARGE:
            return usual(context, value)
        dtype = types.nptype_from_builtin(proto_to_types(value.type).get_primitive())
        return np.broadcast_to(np.zeros((), dtype), shape)

    parser._load_value = load_value
    try:
        yield
    finally:
        parser._load_value = usual


# What the description promises


def _undescribed(program: Program) -> Iterator[str]:
    """Inputs, states and outputs by which callers know a function, against those that it has."""
    description = program.spec.description
    described = {each.name: each for each in description.functions} or {"main": description}
    yield from (f"{name} is in the program or its description only" for name in described.keys() ^ program.functions)
    default = description.defaultFunctionName or "main"
    if default not in program.functions:
        yield f"the default function, {default}, is missing"
    for name, function in program.functions.items():
        if name in described:
            yield from (f"{name}: {fault}" for fault in _differing(described[name], function))


def _differing(described: Any, function: Function) -> Iterator[str]:
    pairs = (("input", described.input, function.inputs), ("state", described.state, function.states),
             ("output", described.output, function.outputs))  # fmt: skip
    for what, features, types in pairs:
        promised = {feature.name: _type(feature.type) for feature in features}
        for name in promised.keys() | types.keys():
            if promised.get(name) != types.get(name):
                yield f"the {what} {name} is {_spelled(types.get(name))}, described is {_spelled(promised.get(name))}"


def _type(feature: Any) -> Type:
    from coremltools.proto import FeatureTypes_pb2

    array = feature.stateType.arrayType if feature.WhichOneof("Type") == "stateType" else feature.multiArrayType
    dtype = FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType)
    return Type(tuple(array.shape), dtype.lower())


def _spelled(type_: Type | None) -> str:
    return f"{type_.dtype} {list(type_.shape)}" if type_ else "missing"


# What the operations are


def _unavailable(program: Program, function: Function) -> Iterator[str]:
    """Operations that came later than the system that the package is for."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    version, opsets = program.spec.specificationVersion, coremltools()._OPSET
    if function.opset != opsets[version]:
        yield f"its opset is {function.opset}, that of {_target(program)} is {opsets[version]}"
    for kind in sorted({operation.type for operation in function.operations}):
        versions = SSAOpRegistry.core_ops.get(READ if kind == WRITE else kind)
        if not versions:
            yield f"Core ML has no operation {kind}"
        elif (since := min(versions)).value > version:
            yield f"{kind} came with {since.name}, the package is for {_target(program)}"


def _crossed(function: Function) -> Iterator[str]:
    """States that are read on both sides of a write, or used after it as they were before.

    Compilers merge reads of one state, so that what is computed from the second is wrong without an error. Safe is to
    read a state once, and to go on from each write with the read directly behind it.
    """
    held: dict[str, set[str]] = {state: set() for state in function.states}  # values read since the last write
    stale: dict[str, str] = {}  # values of before it, with their state
    written = set[str]()
    for operation, before in zip(function.operations, (None, *function.operations), strict=False):
        for name in sorted(operation.names & stale.keys()):
            yield f"{operation.type} {operation.name} uses {stale[name]} as it was before a write"
        if operation.type == READ:
            held[operation.state] |= operation.outputs.keys()
            follows = before and before.type == WRITE and before.state == operation.state
            if operation.state in written and not follows:
                yield f"{operation.name} reads {operation.state} again, away from its last write"
        elif operation.type == WRITE:
            stale |= dict.fromkeys(held[operation.state], operation.state)
            held[operation.state] = set()
            written.add(operation.state)


def _inexact(function: Function) -> Iterator[str]:
    """Gemma's gelu is the tanh approximation throughout; converters are known to replace it by the exact one."""
    for operation in function.operations:
        if operation.type == "gelu" and _mode(function, operation.inputs.get("mode", ())) != "TANH_APPROXIMATION":
            yield f"{operation.name} is not the tanh approximation of gelu"


def _mode(function: Function, given: Iterable[Any]) -> str | None:
    """A string argument's value."""
    for argument in given:
        found = function.constants[argument.value].inputs["val"][0] if isinstance(argument, Name) else argument
        return str(found.value) if isinstance(found, Immediate) else None
    return None
