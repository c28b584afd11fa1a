"""Command line of the export: `python -m export --target android --model tiny --recipe int4`."""

from pathlib import Path
from typing import Annotated

import typer

from runtime.errors import bad_input_told

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export_command(
    target: Annotated[str, typer.Option(help="Platform: android, ios or desktop.")] = "android",
    model: Annotated[
        str,
        typer.Option(help="`tiny`, a folder, a GGUF file, a Hugging Face id, or ID@REVISION (branch, tag, commit)."),
    ] = "tiny",
    recipe: Annotated[
        str, typer.Option(help="How weights are quantized [the target's]; an unknown name lists them.")
    ] = "",
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of text, images and clips for recipes that calibrate [a small set].")
    ] = None,
    budget: Annotated[
        str, typer.Option(help="Of recipe auto: 4.5bits (per quantized weight) or 6.2GB [4.5bits].")
    ] = "",
    formats: Annotated[str, typer.Option(help="Some of the target's formats, separated by commas.")] = "",
    context: Annotated[int, typer.Option(help="Positions to make room for.", min=1)] = 8192,
    data_file: Annotated[bool, typer.Option(help="Put ExecuTorch's weights into a .ptd beside the .pte.")] = False,
    build: Annotated[Path, typer.Option(help="Quantized checkpoints go to its folder `quantized`.")] = Path("build"),
    dist: Annotated[Path, typer.Option(help="Bundles go to its folder of the target's name.")] = Path("dist"),
    out: Annotated[Path | None, typer.Option(help="The bundle's folder [DIST/TARGET/MODEL-RECIPE].")] = None,
    reference: Annotated[
        str, typer.Option(help="none, whole (if it fits the memory) or streamed (slow, in 4 GB of memory).")
    ] = "whole",
    gate: Annotated[list[str] | None, typer.Option(help="name=value, overrides a bound; repeatable.")] = None,
    json: Annotated[bool, typer.Option("--json", help="End with one JSON line instead of a summary.")] = False,
) -> None:
    """Quantizes a checkpoint, lowers it and verifies what came out.

    Exits 0 if the bundle is in place, 1 if a gate does not hold, 2 for bad input.
    """
    from export.pipeline import Request, export, show  # transformers and engines take seconds to import

    wanted = [name for name in formats.replace(",", " ").split() if name]
    with bad_input_told():
        request = Request(target, model, recipe, wanted, context, data_file, build, dist, gate or [], reference, out,
                          calibration, budget)  # fmt: skip
        summary = export(request)
    if json:
        typer.echo(summary.model_dump_json())
    else:
        show(summary)


if __name__ == "__main__":
    app()
