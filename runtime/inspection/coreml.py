"""Core ML packages: functions, states, and the arrays of `weight.bin` by their metadata."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from runtime.inspection.description import Description, Fact, Graph, Part, Weights, tally
from runtime.manifest import Port
from runtime.mil.blobs import BlobFiles, bits
from runtime.mil.program import Function, Operation, Program, Stored, Type, read_program

SUFFIX = ".mlpackage"
COMPRESSED = "constexpr_"  # begins the names of operators that expand weights, whose inputs are these parts:
PARTS: dict[str, Part] = {"data": "codes", "quantized_data": "codes", "indices": "codes", "scale": "scales"}
SHARED = "main"  # name of the function in a package of one


def describe(path: Path) -> Description:
    """
    Args:
        path: of an `.mlpackage`, or of a folder of some.

    Raises:
        UserError: coremltools is missing, or a package cannot be read or is cut short.
    """
    paths = [path] if path.suffix == SUFFIX else sorted(path.glob(f"*{SUFFIX}"))
    packages = [read_program(package) for package in paths]
    root = path.parent if path.suffix == SUFFIX else path
    files = {file.relative_to(root).as_posix(): file.stat().st_size
             for package in paths for file in sorted(package.rglob("*")) if file.is_file()}  # fmt: skip
    return Description(
        path=str(path),
        kind="coreml",
        size=sum(files.values()),
        files=files,
        graphs=[_graph(package, function) for package in packages for function in package.functions.values()],
        weights=tally(weights for package in packages for weights in _weights(package)),
        facts=_facts(packages[0]) if len(packages) == 1 else {},
    )


def _graph(package: Program, function: Function) -> Graph:
    kinds = Counter(operation.type for operation in function.operations if operation.type != "const")
    return Graph(
        name=package.path.stem if function.name == SHARED else f"{package.path.stem}.{function.name}",
        file=package.path.name,
        inputs=_ports(function.inputs),
        outputs=_ports(function.outputs),
        states=_ports(function.states),
        operators=dict(kinds.most_common()),
    )


def _ports(types: Mapping[str, Type]) -> list[Port]:
    return [Port(name=name, dtype=type_.dtype, shape=["?" if size is None else size for size in type_.shape])
            for name, type_ in types.items()]  # fmt: skip


def _weights(package: Program) -> Iterator[Weights]:
    """What lies in blob files, once, however many functions share it."""
    files, seen = BlobFiles(), set[tuple[Path, int]]()
    for part, stored in _stored(package.functions.values()):
        if (place := (stored.path, stored.offset)) not in seen:
            seen.add(place)
            entry, width = files[stored.path].entry(stored.offset), bits(stored.type.dtype)
            values = (entry.size * 8 - entry.unused) // width
            yield Weights(dtype=stored.type.dtype, part=part, bits=width, values=values, bytes=entry.size)


def _stored(functions: Iterable[Function]) -> Iterator[tuple[Part, Stored]]:
    for operation in (operation for function in functions for operation in function.operations):
        for key, arguments in operation.inputs.items():
            yield from ((_part(operation, key), value) for value in arguments if isinstance(value, Stored))


def _part(operation: Operation, key: str) -> Part:
    return PARTS.get(key, "values") if operation.type.startswith(COMPRESSED) else "values"


def _facts(package: Program) -> dict[str, Fact]:
    """What the package says of itself."""
    description = package.spec.description
    return {"specification": package.spec.specificationVersion, **dict(description.metadata.userDefined)}
