"""How long lowering to Core ML takes at the 12B's real widths, in how much memory, and how large packages get.

    python -m benchmarks.coreml_lowering [--layers 6] [--recipe int4] [--folder build/benchmark] [--keep]

Random weights, quantized first; the lowering itself runs in a process of its own.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks.measuring import anonymous_peak, in_child, size
from benchmarks.random_checkpoint import write_checkpoint
from export.quantize import quantize
from export.recipes import find_recipe
from export.sources import open_source

CONTEXT = 4096


def main(
    layers: Annotated[int, typer.Option(help="Of the 12B's 48.")] = 6,
    recipe: Annotated[str, typer.Option()] = "int4",
    folder: Annotated[Path, typer.Option(help="Of the checkpoints and packages.")] = Path("build/benchmark"),
    keep: Annotated[bool, typer.Option(help="Leave them there; a quantized checkpoint is used again.")] = False,
    here: Annotated[bool, typer.Option(hidden=True, help="Lower in this process.")] = False,
) -> None:
    quantized, out = folder / f"quantized-{recipe}-{layers}", folder / "coreml"
    if here:
        print(json.dumps(measure(quantized, out)))
        return
    if not quantized.is_dir():
        write_checkpoint(folder / "source", layers)
        quantize(open_source(folder / "source"), find_recipe(recipe), "random", quantized)
        shutil.rmtree(folder / "source")
    options = ["--layers", str(layers), "--recipe", recipe, "--folder", str(folder), "--here"]
    print(json.dumps(in_child("benchmarks.coreml_lowering", *options)))
    if not keep:
        shutil.rmtree(folder)


def measure(checkpoint: Path, out: Path) -> dict[str, object]:
    """In this process, packages and all beside them."""
    from export.checkpoint import CheckpointWeights
    from export.config import read_model
    from runtime.coreml_tools import coremltools

    coremltools()
    from export.lowering.coreml_bundle import write_coreml
    from export.lowering.coreml_ports import Sizes

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    weights = CheckpointWeights(checkpoint)
    model = read_model(weights.config)
    process, begun = psutil.Process(), time.perf_counter()
    before = process.memory_info()
    with anonymous_peak() as peak:
        write_coreml(model, weights, out, Sizes.of(model, checkpoint, CONTEXT), "random")
        seconds = time.perf_counter() - begun
    sizes = {path.name: size(path) for path in sorted(out.iterdir())}
    return {"layers": len(model.text.layers), "seconds": round(seconds, 1), "bytes": sum(sizes.values()),
            "anonymous_before": before.rss - before.shared, "anonymous_growth": peak[0], "sizes": sizes}  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
