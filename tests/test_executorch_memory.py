"""Where a `.pte` plans caches: in an arena of their own, and once; and what they take while it is made: nothing."""

import os
from pathlib import Path

import pytest
import torch
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge
from executorch.exir.passes import MemoryPlanningPass
from torch import Tensor, nn

from export.config import read_model
from export.lowering.executorch_memory import CachesApart
from export.lowering.torch_ops import new_caches
from export.models import EMBEDDED
from export.sources import open_source
from runtime.bench.memory import read_memory
from runtime.manifest import read_manifest
from runtime.readback_executorch import DECODER, ExecutorchWeights

ALIGNMENT = 16  # bytes, of each cache
SHAPE = 4, 1000  # of the small cache


class Kept(nn.Module):
    """Writes a column into a cache, as the decoder does."""

    kept: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(SHAPE))

    def forward(self, column: Tensor, slot: Tensor) -> Tensor:
        self.kept.index_copy_(1, slot, column)
        return self.kept.sum(-1)


class Doubled(nn.Module):
    """Keeps nothing."""

    def forward(self, column: Tensor) -> Tensor:
        return column * 2


def arenas(planning: MemoryPlanningPass) -> dict[str, list[int]]:
    """Bytes of each, by method; the first stands for no memory."""
    column = torch.zeros(SHAPE[0], 1)
    programs = {
        "write": torch.export.export(Kept(), (column, torch.tensor([3])), strict=True),
        "double": torch.export.export(Doubled(), (column,), strict=True),
    }
    edge = to_edge(programs, compile_config=EdgeCompileConfig(_skip_dim_order=True))
    config = ExecutorchBackendConfig(run_reinplace_pass=True, memory_planning_pass=planning)
    plans = edge.to_executorch(config).executorch_program.execution_plan
    return {plan.name: plan.non_const_buffer_sizes for plan in plans}


def test_a_cache_is_planned_once_and_apart() -> None:
    found, cache = arenas(CachesApart()), SHAPE[0] * SHAPE[1] * 4
    _, activations, caches = found["write"]
    assert cache <= caches < cache + ALIGNMENT and activations < cache / 10
    assert len(found["double"]) == 2, "a method without caches makes no room for them"


def test_control_stock_planning_plans_it_twice() -> None:
    assert arenas(MemoryPlanningPass())["write"][1] >= 2 * SHAPE[0] * SHAPE[1] * 4


@pytest.fixture
def sizes(executorch_bundle: Path) -> dict[str, list[int]]:
    plans = ExecutorchWeights(executorch_bundle / "executorch").program.execution_plan
    return {plan.name: plan.non_const_buffer_sizes for plan in plans}


def test_a_bundle_makes_the_room_that_its_manifest_tells(executorch_bundle: Path, sizes: dict[str, list[int]]) -> None:
    manifest = read_manifest(executorch_bundle)
    expected = manifest.artifacts["executorch"].cache.at(manifest.limits.context)
    assert expected <= sizes[DECODER][2] <= expected * 1.01
    assert all(len(arenas) < 3 for name, arenas in sizes.items() if name != DECODER)


def test_caches_take_no_memory_until_they_are_written() -> None:
    """A trace never writes them; a gigabyte of the 12B's at 8192 positions."""

    def anonymous() -> int:
        return read_memory(os.getpid()).anonymous or 0

    text, before = read_model(open_source(EMBEDDED["tiny"]).config).text, anonymous()
    caches = new_caches(text, max_context=2**18, max_step=280)
    size = sum(buffer.nbytes for buffer in caches.buffers())
    assert size > 2**26 and anonymous() - before < size / 10
    for buffer in caches.buffers():
        assert not buffer.any()
        buffer.fill_(1)
    assert anonymous() - before > size * 0.9, "control"
