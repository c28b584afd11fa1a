"""Memory of a program's methods, planned so that caches take what they hold and no more.

Stock planning keeps what an in-place write returns apart from what it wrote to where a graph returns it, and makes room
for both: at 8192 positions 794 MiB that nothing uses. And it puts caches among the activations, so that methods which
share their memory, as those of a program in Python do, overwrite each other's.
"""

from executorch.exir.memory_planning import _alias_inplace_result_specs, _is_inplace_node
from executorch.exir.passes import MemoryPlanningPass
from torch.export.graph_signature import ExportGraphSignature
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult


class CachesApart(MemoryPlanningPass):
    """Caches in an arena of their own, the second, of the methods that have any."""

    def __init__(self) -> None:
        super().__init__(alloc_graph_input=False, share_mutable_buffers=True)

    def run(self, graph_module: GraphModule, graph_signature: ExportGraphSignature | None = None) -> PassResult:
        _join_written(graph_module)
        result = super().run(graph_module, graph_signature)
        if graph_signature and not graph_signature.buffers_to_mutate:
            self.state.graph_modules.remove(graph_module)  # else it would be given the arena too
        return result


def _join_written(graph_module: GraphModule) -> None:
    """What an in-place operation returns is what it wrote to, for those too that take it from there."""
    nodes = graph_module.graph.nodes
    for node in filter(_is_inplace_node, nodes):
        _alias_inplace_result_specs(node)
    output = graph_module.graph.output_node()
    pairs = zip(output.args[0], output.meta["spec"], strict=True)  # type: ignore[arg-type]
    output.meta["spec"] = [value.meta["spec"] if isinstance(value, Node) else spec for value, spec in pairs]
