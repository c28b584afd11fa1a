"""The program of a Core ML package as plain records, so that nothing else has to know its protobuf messages."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.coreml_tools import coremltools
from runtime.errors import UserError, first_line
from runtime.mil.blobs import values
from runtime.untrusted import read_object, require_file, require_inside

AGAIN = "this is no Core ML package; name an .mlpackage of a bundle, or export it again"
LARGEST = 1 << 30  # bytes of a program without its weights; the largest package may have so many in all
READ, WRITE = "read_state", "write_state"
MODEL_PATH = "@model_path"  # stands for the model's folder in names of blob files
OTHER_NAMES = {"bool": "bool", "string": "string", "float8e4m3fn": "float8_e4m3fn", "float8e5m2": "float8_e5m2"}


@dataclass(frozen=True)
class Type:
    """Of a tensor."""

    shape: tuple[int | None, ...]  # None: not known before the program runs
    dtype: str  # as NumPy calls it, or "int4" and the like, or "string"

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of what is known: inputs, states, constants."""
        return tuple(size or 0 for size in self.shape)


@dataclass(frozen=True)
class Name:
    """The argument is an input, a state or the result of an operation."""

    value: str


@dataclass(frozen=True)
class Stored:
    """The argument lies in a blob file."""

    path: Path
    offset: int  # of its metadata
    type: Type


@dataclass(frozen=True)
class Immediate:
    """The argument is written in the program."""

    value: NDArray | str


Argument = Name | Stored | Immediate


@dataclass(frozen=True)
class Operation:
    """`const` has one argument, `val`; `write_state` no output."""

    type: str
    name: str
    inputs: dict[str, tuple[Argument, ...]]
    outputs: dict[str, Type]

    @property
    def is_constant(self) -> bool:
        """Its value is known before the program runs."""
        return self.type == "const" or self.type.startswith("constexpr_")

    @property
    def arguments(self) -> Iterator[Argument]:
        return (argument for arguments in self.inputs.values() for argument in arguments)

    @property
    def names(self) -> set[str]:
        """Of the values that it takes, and of the state."""
        return {argument.value for argument in self.arguments if isinstance(argument, Name)}

    @property
    def state(self) -> str:
        """What it reads or writes, if it does."""
        given = self.inputs["input"][0] if self.type in (READ, WRITE) else None
        return given.value if isinstance(given, Name) else ""


@dataclass(frozen=True)
class Function:
    """Inputs, states and results by name, and the operations between them."""

    name: str
    opset: str
    inputs: dict[str, Type]
    states: dict[str, Type]
    outputs: dict[str, Type]
    operations: tuple[Operation, ...]

    @cached_property
    def constants(self) -> dict[str, Operation]:
        """Operations by their result."""
        constant = (operation for operation in self.operations if operation.is_constant)
        return {name: operation for operation in constant for name in operation.outputs}

    @cached_property
    def last_uses(self) -> list[set[str]]:
        """For each operation the values that none needs after it."""
        seen, found = set(self.outputs), list[set[str]]()
        for operation in reversed(self.operations):
            found.append((operation.names | set(operation.outputs)) - seen)
            seen |= operation.names
        return found[::-1]

    def widened(self) -> "Function":
        """The same with fp32 wherever fp16 is declared, except in states and stored arrays."""
        operations = (replace(operation, outputs=_widen(operation.outputs)) for operation in self.operations)
        return replace(
            self, inputs=_widen(self.inputs), outputs=_widen(self.outputs), operations=tuple(operations)
        )  # fmt: skip


def _widen(types: dict[str, Type]) -> dict[str, Type]:
    return {name: replace(type_, dtype="float32") if type_.dtype == "float16" else type_
            for name, type_ in types.items()}  # fmt: skip


@dataclass(frozen=True)
class Program:
    """What a package holds beside its blob file."""

    path: Path  # of the package
    folder: Path  # of the model's file
    spec: Any  # Model message

    @cached_property
    def functions(self) -> dict[str, Function]:
        """Raises:
        UserError: an operation that nothing here can read.
        """
        found = sorted(self.spec.mlProgram.functions.items())  # protobuf's maps have no order of their own
        return {name: self._function(name, function) for name, function in found}

    def _function(self, name: str, message: Any) -> Function:
        if message.opset not in message.block_specializations:
            raise UserError(
                f"{self.path}: {name} has no program for its opset {message.opset}: export the bundle again"
            )
        block = message.block_specializations[message.opset]
        states = [port for port in message.inputs if port.type.WhichOneof("type") == "stateType"]
        plain = [port for port in message.inputs if port.type.WhichOneof("type") != "stateType"]
        operations = tuple(self._operation(operation) for operation in block.operations)
        types = {name: type_ for operation in operations for name, type_ in operation.outputs.items()}
        inputs = _types(plain)
        held = {port.name: type_of(port.type.stateType.wrappedType) for port in states}
        outputs = {output: (types | inputs)[output] for output in block.outputs}
        return Function(name, message.opset, inputs, held, outputs, operations)

    def _operation(self, message: Any) -> Operation:
        """Attributes other than the name are arguments: of a `const`, and of compressed weights before iOS 18."""
        inputs = {key: tuple(map(self._argument, value.arguments)) for key, value in message.inputs.items()}
        fixed = {key: (self._value(value),) for key, value in message.attributes.items() if key != "name"}
        outputs = _types(message.outputs)
        name = str(self._value(message.attributes["name"]).value) if "name" in message.attributes else ""
        return Operation(message.type, name or next(iter(outputs), ""), inputs | fixed, outputs)

    def _argument(self, binding: Any) -> Argument:
        return Name(binding.name) if binding.WhichOneof("binding") == "name" else self._value(binding.value)

    def _value(self, message: Any) -> Any:
        type_ = type_of(message.type)
        if message.WhichOneof("value") == "blobFileValue":
            name = message.blobFileValue.fileName.removeprefix(f"{MODEL_PATH}/")
            return Stored(require_inside(self.folder, name, AGAIN), message.blobFileValue.offset, type_)
        return Immediate(_immediate(message.immediateValue.tensor, type_))


def _types(ports: Iterable[Any]) -> dict[str, Type]:
    return {port.name: type_of(port.type) for port in ports}


def type_of(message: Any) -> Type:
    """Of a ValueType message.

    Raises:
        UserError: it is no tensor.
    """
    from coremltools.proto import MIL_pb2

    if message.WhichOneof("type") != "tensorType":
        raise UserError(f"a Core ML program with a {message.WhichOneof('type')} cannot be read here, only tensors can")
    tensor = message.tensorType
    dtype = MIL_pb2.DataType.Name(tensor.dataType).lower()
    sizes = (size.constant.size if size.WhichOneof("dimension") == "constant" else None for size in tensor.dimensions)
    return Type(tuple(sizes), OTHER_NAMES.get(dtype, dtype))


def _immediate(message: Any, type_: Type) -> NDArray | str:
    kind = message.WhichOneof("value")
    held: Any = getattr(message, kind).values if kind else []
    if type_.dtype == "string":
        return str(held[0])
    if kind != "bytes":
        return np.array(held, type_.dtype).reshape(type_.sizes)
    count = int(np.prod(type_.sizes, dtype=np.int64))
    return values(np.frombuffer(held, np.uint8), type_.dtype, count).reshape(type_.sizes)


def read_program(path: Path) -> Program:
    """
    Args:
        path: of an `.mlpackage`.

    Raises:
        UserError: no package there, or none with an ML program that can be read; coremltools is missing.
    """
    coremltools()
    from coremltools.proto import Model_pb2

    try:
        manifest = read_object(path / "Manifest.json", AGAIN)
        model = require_inside(
            path / "Data", manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"], AGAIN
        )
        require_file(model, AGAIN, LARGEST)
        spec = Model_pb2.Model.FromString(model.read_bytes())
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}): {AGAIN}") from None
    except Exception as error:  # protobuf's own, which has no public name
        raise UserError(f"{path}: its model does not parse ({error}): export the bundle again") from None
    if spec.WhichOneof("Type") != "mlProgram":
        raise UserError(f"{path} holds no ML program: export the bundle again")
    return Program(path, model.parent, spec)
