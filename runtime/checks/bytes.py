"""Do the artifacts hold the very weights that left the quantizer?"""

from collections.abc import Iterator

from runtime import readback, readback_coreai, readback_coreml, readback_executorch
from runtime.job import Job
from runtime.manifest import Measure

READERS = {
    "onnx": readback.differences,
    "executorch": readback_executorch.differences,
    "coreml": readback_coreml.differences,
    "coreai": readback_coreai.differences,
}  # by format
NAMED = 3  # differences spelled out


def run(job: Job) -> Iterator[Measure]:
    """Digests of all weights, read back out of each artifact."""
    total = len(job.manifest.tensors)
    for format_ in job.manifest.artifacts:
        job.status(f"reading {total} weights back out of {format_}/")
        found = READERS[format_](job.bundle / format_, job.manifest.tensors)
        named = [f"{difference.name}: {difference.reason}" for difference in found[:NAMED]]
        note = "; ".join([*named, *[f"and {len(found) - NAMED} more"] * (len(found) > NAMED)])
        yield job.measure("bytes", "weights_wrong", len(found), engine=format_, note=note or f"{total} equal")
