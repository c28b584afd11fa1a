"""Skips traces of a whole program that change nothing: there are five for each method, and two that do.

Exported programs are functionalized by any decomposition, so a first one with an empty table is spare; and once one has
been done, another is needed only where the graph holds an operator of its table.
"""

from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakSet

from executorch.exir.program._program import contains_any_call_fn_target_op
from torch.export import ExportedProgram

from export.lowering.executorch_patches import replaced


def fewer_traces() -> AbstractContextManager[None]:
    usual = ExportedProgram.run_decompositions
    functional: WeakSet[ExportedProgram] = WeakSet()  # that came out of a decomposition

    def run(self: ExportedProgram, table: Any = None, *arguments: Any, **options: Any) -> ExportedProgram:
        if table is not None and not table:
            return self
        done = self in functional and table is not None
        if done and not contains_any_call_fn_target_op(self.graph_module, table):
            return self
        program = usual(self, table, *arguments, **options)
        functional.add(program)
        return program

    return replaced(ExportedProgram, "run_decompositions", run)
