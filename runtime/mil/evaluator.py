"""One call of a function, operation by operation."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runtime.errors import UserError
from runtime.mil.constants import Constant, Constants
from runtime.mil.operators import OPERATORS
from runtime.mil.program import READ, WRITE, Argument, Function, Name, Operation, Type
from runtime.mil.tensors import fits, kind, rounded, tensor

State = dict[str, NDArray]
CAST = "cast"
LISTS = ("values",)  # parameters that take several arguments


class Evaluation:
    """The values at one point of a program."""

    def __init__(self, function: Function, constants: Constants, inputs: dict[str, Tensor], state: State) -> None:
        """
        Args:
            state: updated in place.
        """
        self._function = function
        self._constants = constants
        self._values = inputs
        self._state = state

    def run(self) -> dict[str, Tensor]:
        """The outputs.

        Raises:
            UserError: an operation fails, or its result is not of the declared shape and kind.
        """
        for operation, done in zip(self._function.operations, self._function.last_uses, strict=True):
            if not operation.is_constant:
                self._execute(operation)
            for name in done:
                self._values.pop(name, None)
        return {name: torch.as_tensor(self._argument(Name(name))) for name in self._function.outputs}

    def _execute(self, operation: Operation) -> None:
        try:
            results = self._results(operation)
            for result, (name, declared) in zip(results, operation.outputs.items(), strict=True):
                self._values[name] = _declared(result, declared, operation.type == CAST)
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
            where = f"{self._function.name}: {operation.type} {operation.name}"
            raise UserError(f"{where}: {(str(error) or type(error).__name__).splitlines()[0]}") from None

    def _results(self, operation: Operation) -> Sequence[Tensor]:
        if operation.type == READ:
            return [tensor(np.array(self._state[operation.state]))]  # a copy, whatever is written later
        if operation.type == WRITE:
            _write(self._state[operation.state], self._argument(operation.inputs["data"][0]))
            return []
        found = OPERATORS[operation.type](**{key: self._given(key, given) for key, given in operation.inputs.items()})
        return [found] if isinstance(found, Tensor) else found

    def _given(self, key: str, arguments: Sequence[Argument]) -> Constant | list[Constant]:
        found = [self._argument(argument) for argument in arguments]
        return found if key in LISTS else found[0]

    def _argument(self, argument: Argument) -> Constant:
        if isinstance(argument, Name) and argument.value in self._values:
            return self._values[argument.value]
        return self._constants.argument(argument, self._function)


def _write(state: NDArray, data: Constant) -> None:
    if not isinstance(data, Tensor) or tuple(data.shape) != state.shape:
        raise ValueError(f"what is written does not have the state's shape, {list(state.shape)}")
    torch.from_numpy(state).copy_(data)


def _declared(result: Tensor, declared: Type, cast: bool) -> Tensor:
    """Raises:
    ValueError: the result is of another shape, or of another kind and was not cast.
    """
    if not fits(tuple(result.shape), declared):
        raise ValueError(f"the result is {list(result.shape)}, declared is {list(declared.shape)}")
    found = str(result.dtype).removeprefix("torch.")
    if not cast and kind(found) != kind(declared.dtype):
        raise ValueError(f"the result is {found}, declared is {declared.dtype}")
    return rounded(result, declared)
