"""Seconds of lowering to ExecuTorch against the number of layers, each count in a process of its own.

    python -m benchmarks.executorch_lowering [--layers 6 12 24]

Random int4 decoders of the embedded model's width: time depends on the graph, not on the weights.
"""

import time

from benchmarks.measuring import by_layers, memory
from tests import random_models as models


def measure(layers: int) -> dict[str, float]:
    """In this process."""
    from export.lowering.executorch_program import lower_streamed
    from export.lowering.torch_modules import Sizes
    from export.schemes import INT4
    from tests.parity import quantize

    reference = models.random_model(models.random_config(vision=False, audio=False, num_hidden_layers=layers))
    model, weights = quantize(reference, INT4)
    start, processor = time.perf_counter(), time.process_time()
    program = lower_streamed(model, weights, Sizes(context=128, step=64, image_tokens=16, audio_tokens=8), {})
    size = len(program.buffer)
    return {"layers": layers, "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - processor,
            "peak_rss_mib": round(memory()["peak_mib"]), "bytes": size}  # fmt: skip


if __name__ == "__main__":
    by_layers("benchmarks.executorch_lowering", __doc__, measure, [6, 12, 24])
