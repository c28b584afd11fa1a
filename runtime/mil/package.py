"""A Core ML package, run as it was saved."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.mil.constants import Constants
from runtime.mil.decompression import DECOMPRESSIONS
from runtime.mil.evaluator import Evaluation, State
from runtime.mil.operators import OPERATORS
from runtime.mil.program import READ, WRITE, Function, Type, read_program
from runtime.mil.tensors import fits, tensor

KNOWN = {*OPERATORS, *DECOMPRESSIONS, READ, WRITE, "const"}
BUDGET = 1 << 30  # bytes


class Package:
    """The functions of a package. Every operation computes in fp32 and rounds to its declared type."""

    def __init__(self, path: Path, exact: bool = False, budget: int = BUDGET) -> None:
        """
        Args:
            path: of an `.mlpackage`.
            exact: leave out the rounding to fp16, except of states: the float twin of the file. Inputs and outputs
                that are declared as fp16 are fp32 then.
            budget: bytes of decompressed weights that are kept for the next run.

        Raises:
            UserError: no package there that can be read, or one with an operation that is not implemented here.
        """
        self.path = path
        program = read_program(path)
        functions = program.functions
        self.metadata = dict(program.spec.description.metadata.userDefined)
        self.functions = {name: function.widened() if exact else function for name, function in functions.items()}
        self._constants = Constants(budget)
        for function in functions.values():
            if unknown := {operation.type for operation in function.operations} - KNOWN:
                raise UserError(f"{path}: runtime/mil cannot execute {', '.join(sorted(unknown))}: add it to its "
                                "operators, or lower the model without it")  # fmt: skip

    def new_state(self) -> State:
        """Zeros, as a new `MLState` holds; the functions share one."""
        types = {name: type_ for function in self.functions.values() for name, type_ in function.states.items()}
        return {name: np.zeros(type_.sizes, type_.dtype) for name, type_ in types.items()}

    def run(self, function: str, inputs: Mapping[str, NDArray], state: State | None = None) -> dict[str, NDArray]:
        """
        Args:
            inputs: of the declared shapes and dtypes.
            state: from `new_state`, updated in place. Those of other functions may be among them.

        Raises:
            UserError: no such function; an input or state missing, unknown, or of another shape or dtype; an operation
                that fails, or whose result is not of the declared shape and kind.
        """
        called = self._function(function)
        held = {name: array for name, array in (state or {}).items() if name in called.states}
        try:
            _check("input", inputs, called.inputs)
            _check("state", held, called.states)
            with torch.inference_mode():
                arrays = {name: tensor(array) for name, array in inputs.items()}
                outputs = Evaluation(called, self._constants, arrays, held).run()
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        return {name: outputs[name].numpy().astype(type_.dtype) for name, type_ in called.outputs.items()}

    def _function(self, name: str) -> Function:
        if name not in self.functions:
            raise UserError(f"{self.path} has no function {name!r}; there are {', '.join(self.functions)}")
        return self.functions[name]


def _check(what: str, given: Mapping[str, NDArray], wanted: Mapping[str, Type]) -> None:
    for name in wanted.keys() ^ given.keys():
        state = "missing" if name in wanted else "unknown"
        raise UserError(f"the {what} {name} is {state}; there are {', '.join(wanted) or 'none'}")
    for name, type_ in wanted.items():
        found = given[name]
        if not fits(found.shape, type_) or found.dtype != type_.dtype:
            raise UserError(f"the {what} {name} is {found.dtype} {list(found.shape)}, "
                            f"declared is {type_.dtype} {list(type_.shape)}")  # fmt: skip
