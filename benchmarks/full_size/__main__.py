"""The whole export of a checkpoint of the 12B's size, through the code that users run, on random weights.

    python -m benchmarks.full_size [--layers 48] [--formats onnx,executorch,coreml] [--threads 1,2] [--keep]

Writes a bf16 checkpoint, quantizes it, deletes it, lowers to each format into a bundle of its own, takes checksums,
reads every weight back, and lets the engines decode. Each stage runs in a process of its own and is done once: a run
that was stopped goes on where it was. Weights are random, so nothing that comes out says anything about quality.
"""

import json
import shutil
from pathlib import Path
from subprocess import CalledProcessError
from typing import Annotated

import typer

from benchmarks.full_size.report import show, summarize
from benchmarks.full_size.work import ENGINES, TARGETS, Facts, Work
from benchmarks.measuring import in_child
from export.folders import write_atomically
from runtime.errors import UserError, bad_input_told

MODULE = "benchmarks.full_size"
STATE = "state.json"  # what was measured, by stage
CACHED = "writes", "reads"  # runs with the weight cache


def main(
    layers: Annotated[int, typer.Option(help="Of the 12B's 48.", min=1)] = 48,
    formats: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(TARGETS),
    threads: Annotated[str, typer.Option(help="Of engines, each number in a run of its own.")] = "1,2",
    folder: Annotated[Path, typer.Option(help="Work and summary go to its folder of the number of layers.")] = Path(
        "build/full_size"
    ),
    keep: Annotated[bool, typer.Option(help="Leave checkpoint and bundles there.")] = False,
    only_json: Annotated[bool, typer.Option("--json", help="No table, but one JSON line.")] = False,
    changes: Annotated[str, typer.Option(hidden=True, help="To the published config, as JSON.")] = "{}",
    here: Annotated[str, typer.Option(hidden=True, help="Run this stage in this process.")] = "",
) -> None:
    """Exits 2 for bad input, and where a stage fails, a full disk for example."""
    work = Work(folder / str(layers), layers, changes)
    with bad_input_told():
        if here:
            from benchmarks.full_size.stages import perform  # torch and all that takes seconds to import

            print(json.dumps(perform(here, work)))
            return
        found = run_all(work, choose(formats), split(threads))
    if not keep:
        clear(work)
    if not only_json:
        show(found, layers)
    print(json.dumps(summarize(found, layers)))


def choose(formats: str) -> list[str]:
    """Raises:
    UserError: one is unknown.
    """
    wanted = split(formats)
    for name in (name for name in wanted if name not in TARGETS):
        raise UserError(f"no format {name!r}; there are {', '.join(TARGETS)}")
    return wanted


def split(text: str) -> list[str]:
    return text.replace(",", " ").split()


def run_all(work: Work, formats: list[str], threads: list[str]) -> dict[str, list[Facts]]:
    """What was measured, by stage; stages that are done already are not done again."""
    wanted = ["source", "quantize", *formats]
    wanted += [f"run {name} {count}" for name in formats if name in ENGINES for count in threads]
    wanted += [f"run executorch {threads[0]} {cached}" for cached in CACHED if "executorch" in formats]
    state = read_state(work, wanted)
    for stage in (stage for stage in wanted if stage not in state):
        typer.echo(f"{stage} ...", err=True)
        arguments = [f"--folder={work.folder.parent}", f"--layers={work.layers}", f"--changes={work.changes}"]
        state[stage] = perform_apart(stage, arguments)
        write_atomically(work.folder / STATE, json.dumps(state))
        if stage == "quantize":
            delete_weights(work.source)
    return {stage: state[stage] for stage in wanted}


def perform_apart(stage: str, arguments: list[str]) -> list[Facts]:
    """Raises:
    UserError: the stage's process failed, and has said why.
    """
    try:
        found: list[Facts] = in_child(MODULE, *arguments, f"--here={stage}")
    except CalledProcessError:
        raise UserError(f"{stage} failed: after what stands above is mended, the same command goes on there") from None
    return found


def read_state(work: Work, wanted: list[str]) -> dict[str, list[Facts]]:
    """Stages that need not be done again. Where what they made was deleted, the others need all of it again."""
    work.folder.mkdir(parents=True, exist_ok=True)
    path = work.folder / STATE
    state = json.loads(path.read_text()) if path.exists() else {}
    left = state.keys() & {"source"} if work.source.exists() else set()
    whole = all(stage in state for stage in wanted) or work.quantized.exists()
    return state if whole else {stage: state[stage] for stage in left}


def delete_weights(source: Path) -> None:
    """Settings and tokenizer stay: an export looks there for its licence."""
    for path in source.glob("*.safetensors"):
        path.unlink()


def clear(work: Work) -> None:
    """Leaves what was measured."""
    for path in (path for path in work.folder.iterdir() if path.name != STATE):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    typer.run(main)
