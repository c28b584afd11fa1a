"""Memory and seconds of converting to Core AI against the number of weights, each count in a process of its own.

    python -m benchmarks.coreai_lowering [--layers 2 4 8]

Random int4 decoders, 15 million weights a layer. What memory grows by with the weights is the figure that an export
asks for before it begins (`Format.memory`).
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measuring import anonymous_peak, by_layers, size
from runtime import heap
from tests import random_models as models

WIDTHS = dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=8, head_dim=128, global_head_dim=128)


def measure(layers: int) -> dict[str, float]:
    """In this process."""
    from export.lowering.coreai_program import write_coreai
    from export.lowering.torch_modules import Sizes
    from export.schemes import INT4
    from tests.parity import quantize

    config = models.random_config(vision=False, audio=False, num_hidden_layers=layers, **WIDTHS)
    model, weights = quantize(models.random_model(config), INT4)
    heap.trim()  # transformers' model is gone; the peak must not hide in what it leaves free
    begun = time.perf_counter()
    with TemporaryDirectory() as folder, anonymous_peak() as peak:
        write_coreai(model, weights, Path(folder), Sizes(context=128, step=64, image_tokens=16, audio_tokens=8))
        written = size(Path(folder))
    count = sum(weights.dense(name).size for name in weights.tensors if name != "lm_head.weight")  # the embedding's
    return {"layers": layers, "weights": count, "anonymous_growth": peak[0], "bytes": written,
            "seconds": round(time.perf_counter() - begun, 1)}  # fmt: skip


if __name__ == "__main__":
    by_layers("benchmarks.coreai_lowering", __doc__, measure, [2, 4, 8])
