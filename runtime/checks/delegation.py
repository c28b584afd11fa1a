"""Does every quantized linear of an ExecuTorch program run in XNNPACK, and what else runs where?"""

from collections.abc import Iterator

from runtime.architectures import embedding_weight
from runtime.job import HEAD, Job
from runtime.manifest import Measure
from runtime.readback_executorch import BACKEND, undelegated

FORMAT = "executorch"


def run(job: Job) -> Iterator[Measure]:
    weights = job.executorch
    lost = undelegated(weights, job.manifest.tensors, _looked_up(job))
    yield job.measure("delegation", "undelegated", len(lost), engine=FORMAT, note="; ".join(lost))
    calls = weights.operators()
    portable = ", ".join(f"{name.removeprefix('aten::')} {count}" for name, count in calls.items() if name != BACKEND)
    yield job.measure("delegation", "delegates", calls.get(BACKEND, 0), engine=FORMAT, note=f"portable: {portable}")
    yield job.measure("delegation", "planned_bytes", weights.planned_bytes(), engine=FORMAT,
                      note="that the decoder's caches and activations take")  # fmt: skip


def _looked_up(job: Job) -> str | None:
    """The embedding, where the head has weights of its own; a tied one is multiplied by, too."""
    names = [tensor.name for tensor in job.manifest.tensors]
    return embedding_weight(names) if any(name.endswith(f"{HEAD}.weight") for name in names) else None
