"""Core ML itself, through coremltools, which runs packages on macOS only. Same interface as `runtime.mil.Package`."""

import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from runtime.coreml_tools import coremltools
from runtime.errors import UserError

HERE = sys.platform == "darwin"


class NativePackage:
    """The functions of a package, each loaded at first use."""

    def __init__(self, path: Path) -> None:
        """Raises:
        UserError: another system, coremltools is missing, or Core ML does not open the package.
        """
        if not HERE:
            raise UserError("Core ML runs on macOS only: elsewhere runtime/mil executes its packages")
        self.path = path
        self._tools = coremltools()
        self._models: dict[str, Any] = {}
        self._spec = self._tools.utils.load_spec(str(path))

    @cached_property
    def metadata(self) -> dict[str, str]:
        return dict(self._spec.description.metadata.userDefined)

    @property
    def _functions(self) -> list[str]:
        return [function.name for function in self._spec.description.functions]

    def new_state(self) -> Any:
        """MLState of zeros, which the functions share; None where they have none."""
        functions = self._spec.description.functions
        stateful = any(function.state for function in functions) or self._spec.description.state
        return self._model(self._functions[0] if functions else "main").make_state() if stateful else None

    def run(self, function: str, inputs: Mapping[str, NDArray], state: Any = None) -> dict[str, NDArray]:
        """
        Args:
            inputs: of the declared shapes and dtypes.
            state: from `new_state`, updated in place.
        """
        return self._model(function).predict(dict(inputs), state=state)

    def _model(self, function: str) -> Any:
        if function not in self._models:
            units, name = self._tools.ComputeUnit.CPU_AND_GPU, function if function in self._functions else None
            try:
                model = self._tools.models.MLModel(str(self.path), compute_units=units, function_name=name)
            except RuntimeError as error:
                raise UserError(f"{self.path}: Core ML does not open {function}: {error}") from None
            self._models[function] = model
        return self._models[function]
