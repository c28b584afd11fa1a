"""Constants of a program, weights among them, decompressed when an operation asks for them."""

from torch import Tensor

from runtime.mil.blobs import BlobFiles
from runtime.mil.decompression import DECOMPRESSIONS
from runtime.mil.program import Argument, Function, Name, Operation, Stored
from runtime.mil.tensors import rounded, tensor

Constant = Tensor | str


class Constants:
    """Of all functions of a package, which share their weights.

    Decompressed weights are kept as long as there is room. None makes way for another: a step uses each once, in the
    same order, so that the last one used is always the next to be dropped.
    """

    def __init__(self, budget: int) -> None:
        """
        Args:
            budget: bytes of decompressed weights to keep.
        """
        self._room = budget
        self._kept: dict[tuple[object, ...], Tensor] = {}
        self._files = BlobFiles()

    def argument(self, argument: Argument, function: Function) -> Constant:
        """fp32 where a float is declared, rounded to what is declared.

        Raises:
            UserError: an array that is not where or what the program says.
        """
        if isinstance(argument, Name):
            return self._value(function.constants[argument.value], function)
        if isinstance(argument, Stored):
            return tensor(self._files[argument.path].read(argument.offset, argument.type.dtype, argument.type.sizes))
        return argument.value if isinstance(argument.value, str) else tensor(argument.value)

    def _value(self, operation: Operation, function: Function) -> Constant:
        stored = tuple(argument for argument in operation.arguments if isinstance(argument, Stored))
        key = (operation.type, *stored)
        if key in self._kept:
            return self._kept[key]
        found = self._compute(operation, function)
        if isinstance(found, Tensor) and len(stored) == len(operation.inputs) and found.nbytes <= self._room:
            self._kept[key] = found
            self._room -= found.nbytes
        return found

    def _compute(self, operation: Operation, function: Function) -> Constant:
        arguments = {key: self.argument(given, function) for key, (given,) in operation.inputs.items()}
        value = arguments["val"] if operation.type == "const" else DECOMPRESSIONS[operation.type](**arguments)
        (declared,) = operation.outputs.values()
        return value if isinstance(value, str) else rounded(value, declared)
