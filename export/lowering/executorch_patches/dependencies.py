"""Partitioners ask for the nodes downstream of a few; fx and ExecuTorch prepare them for all, in quadratic time and
memory: at 18 layers 350 MiB, at which lowering had its peak.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from executorch.exir.backend.canonical_partitioners import group_partitioner
from torch.fx import GraphModule, Node
from torch.fx.passes.infra import partitioner

from export.lowering.executorch_patches import replaced


class LazyDependencies:
    """The _DependencyViewer of either, computed when asked."""

    def __init__(self, graph_module: GraphModule) -> None:
        pass

    def downstreams_of(self, node: Node) -> set[Node]:
        found: set[Node] = set()
        waiting = list(node.users)
        while waiting:
            user = waiting.pop()
            if user not in found:
                found.add(user)
                waiting.extend(user.users)
        return found


@contextmanager
def lazy_dependencies() -> Iterator[None]:
    with (
        replaced(partitioner, "_DependencyViewer", LazyDependencies),
        replaced(group_partitioner, "_DependencyViewer", LazyDependencies),
    ):
        yield
