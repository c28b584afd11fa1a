"""Do the artifacts hold the very weights that left the quantizer?"""

from collections.abc import Callable, Iterator, Sequence

from runtime import readback, readback_coreai, readback_coreml, readback_executorch
from runtime.job import Job
from runtime.manifest import Measure, TensorDigest
from runtime.readback import Difference

Tensors = Sequence[TensorDigest]
READERS: dict[str, Callable[[Job, Tensors], list[Difference]]] = {  # by format
    "onnx": lambda job, tensors: readback.differences(job.bundle / "onnx", tensors),
    "executorch": lambda job, tensors: readback_executorch.compare(job.executorch, tensors),
    "coreml": lambda job, tensors: readback_coreml.differences(job.bundle / "coreml", tensors),
    "coreai": lambda job, tensors: readback_coreai.differences(job.bundle / "coreai", tensors),
}
NAMED = 3  # differences spelled out


def run(job: Job) -> Iterator[Measure]:
    """Digests of all weights, read back out of each artifact."""
    total = len(job.manifest.tensors)
    for format_ in job.manifest.artifacts:
        job.status(f"reading {total} weights back out of {format_}/")
        found = READERS[format_](job, job.manifest.tensors)
        named = [f"{difference.name}: {difference.reason}" for difference in found[:NAMED]]
        note = "; ".join([*named, *[f"and {len(found) - NAMED} more"] * (len(found) > NAMED)])
        yield job.measure("bytes", "weights_wrong", len(found), engine=format_, note=note or f"{total} equal")
