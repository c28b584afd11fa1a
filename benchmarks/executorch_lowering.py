"""Seconds of lowering to ExecuTorch against the number of layers, each count in a process of its own.

    python -m benchmarks.executorch_lowering [--layers 6 12 24]

Random int4 decoders of the embedded model's width: time depends on the graph, not on the weights.
"""

import argparse
import json
import time

from benchmarks.measuring import in_child, memory
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 12, 24])
    parser.add_argument("--here", action="store_true", help="measure the first count in this process")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.layers[0])))
        return
    for count in arguments.layers:
        found = in_child("benchmarks.executorch_lowering", "--here", "--layers", str(count))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
