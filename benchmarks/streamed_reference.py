"""How long the streamed reference takes at the 12B's real widths, and in how much memory.

    python -m benchmarks.streamed_reference [--layers 6] [--recipe int4] [--folder build/benchmark] [--keep]
    python -m benchmarks.streamed_reference --layers 48 --zeros

Random weights, of the source checkpoint and of the quantized one, each in a process of its own. A batch of texts is
read, then each is continued by a few tokens; what a layer takes is carried over to 48 of them. Seconds are those of the
processor: set OMP_NUM_THREADS=1. A checkpoint of zeros takes no disk, so that memory can be measured at all layers.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import torch
import typer

from benchmarks.quantize import anonymous_peak
from benchmarks.random_checkpoint import write_checkpoint
from export.quantize import quantize
from export.recipes import find_recipe
from export.sources import open_source
from runtime.manifest import Tokens
from runtime.sessions.base import ModelInputs
from runtime.sessions.streamed import StreamedReference

LENGTHS = (1100, 280, 280, 256, 256, 40, 40, 20)  # positions: past the window, images, clips and texts of goldens
LAYERS = 48  # of the 12B
NEW = 3  # tokens that continue each
TOKENS = Tokens(bos=2, eos=[], pad=0, suppress=[], image=None, audio=None, video=None, begin_image=None,
                end_image=None, begin_audio=None, end_audio=None)  # fmt: skip


def main(
    layers: Annotated[int, typer.Option(help="Of the 12B's 48.")] = 6,
    recipe: Annotated[str, typer.Option()] = "int4",
    folder: Annotated[Path, typer.Option(help="Of the checkpoints.")] = Path("build/benchmark"),
    keep: Annotated[bool, typer.Option(help="Leave them there, to be used again.")] = False,
    zeros: Annotated[bool, typer.Option(help="No weights but zeros, nothing quantized.")] = False,
    here: Annotated[Path | None, typer.Option(hidden=True, help="Measure this checkpoint in this process.")] = None,
) -> None:
    if here:
        print(json.dumps(measure(here)))
        return
    for checkpoint in _checkpoints(folder, layers, recipe, zeros):
        command = [sys.executable, "-m", "benchmarks.streamed_reference", "--here", str(checkpoint)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1], flush=True)
    if not keep:
        shutil.rmtree(folder)


def _checkpoints(folder: Path, layers: int, recipe: str, zeros: bool) -> Iterator[Path]:
    """Written where they are not there yet."""
    source = folder / f"{'zeros' if zeros else 'source'}-{layers}"
    if not source.is_dir():
        write_checkpoint(source, layers, zeros=zeros)
    yield source
    if not zeros:
        quantized = folder / f"quantized-{recipe}-{layers}"
        quantize(open_source(source), find_recipe(recipe), "random", quantized)
        yield quantized


def measure(checkpoint: Path) -> dict[str, object]:
    """Seconds and bytes."""
    rng, process = np.random.default_rng(0), psutil.Process()
    prompts = [ModelInputs(rng.integers(10, 200_000, length)) for length in LENGTHS]
    imports = process.memory_info()
    with anonymous_peak() as peak:
        reference = StreamedReference.open(checkpoint)
        load = _seconds(lambda: _load_all(reference)) / reference.model.depth
        head = _seconds(lambda: reference.model.logits(torch.zeros(len(prompts), 3840), 0))
        whole_pass = _seconds(lambda: reference.read(prompts, [[-1]] * len(prompts)))
        read_peak = peak[0]
        generated = _seconds(lambda: reference.generate(prompts, TOKENS, 1 + NEW))
    each = (whole_pass - head) / reference.model.depth
    token = (generated - whole_pass) / NEW
    return {
        "checkpoint": checkpoint.name, "threads": torch.get_num_threads(), "positions": sum(LENGTHS),
        "anonymous_before": imports.rss - imports.shared, "anonymous_growth_reading": read_peak,
        "anonymous_growth_generating": peak[0], "layer_load_seconds": round(load, 2),
        "layer_pass_seconds": round(each, 2), "head_seconds": round(head, 2), "token_seconds": round(token, 2),
        f"pass_seconds_{LAYERS}": round(head + LAYERS * each),
        f"token_seconds_{LAYERS}": round(head + LAYERS * (token - head) / reference.model.depth),
    }  # fmt: skip


def _load_all(reference: StreamedReference) -> None:
    """Every layer, without running it."""
    for index in range(reference.model.depth):
        with reference.model.layer(index):
            pass


def _seconds(work: Callable[[], object]) -> float:
    """Of the processor: on one thread, what it takes on a machine with nothing else to do and files in memory."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


if __name__ == "__main__":
    typer.run(main)
