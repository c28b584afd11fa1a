"""All that makes lowering linear in the layers, or nearly so.

ExecuTorch also sorts the whole graph after each partition it cuts out. Sorting once would save seconds of minutes, but
orders the inputs of delegates otherwise, so that the bytes could no longer be compared with those of the stock route.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from export.lowering.executorch_patches.decompositions import fewer_traces
from export.lowering.executorch_patches.delegates import prepared_once
from export.lowering.executorch_patches.dependencies import lazy_dependencies
from export.lowering.executorch_streams import Sources


@contextmanager
def fast(sources: Sources) -> Iterator[None]:
    with fewer_traces(), prepared_once(sources), lazy_dependencies():
        yield
