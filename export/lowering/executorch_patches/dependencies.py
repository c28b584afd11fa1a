"""The partitioner asks for the nodes downstream of a few; fx prepares them for all, in quadratic time and memory."""

from contextlib import AbstractContextManager

from torch.fx import GraphModule, Node
from torch.fx.passes.infra import partitioner

from export.lowering.executorch_patches import replaced


class LazyDependencies:
    """fx's _DependencyViewer, computed when asked."""

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


def lazy_dependencies() -> AbstractContextManager[None]:
    return replaced(partitioner, "_DependencyViewer", LazyDependencies)
