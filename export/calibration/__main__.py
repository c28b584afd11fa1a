"""Sensitivity report: KL when each tensor alone is quantized. `python -m export.calibration --model tiny`"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from export.calibration.corpus import open_corpus
from export.calibration.prepare import SENSITIVITIES, probes
from export.calibration.sensitivity import Sensitivity, measure_sensitivity
from export.config import read_model
from export.models import find_model
from export.sources import open_source
from runtime.errors import bad_input_told


def main(
    model: Annotated[str, typer.Option(help="`tiny`, a folder, or a Hugging Face id.")] = "tiny",
    calibration: Annotated[Path | None, typer.Option(help="Folder of text, images and clips.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON line instead of a table.")] = False,
) -> None:
    """Exits 2 for bad input."""
    with bad_input_told():
        source = open_source(find_model(model))
        sequences = open_corpus(calibration).sequences(read_model(source.config), source.folder)
        found = measure_sensitivity(source.folder, sequences, probes(sequences))
    if json:
        typer.echo(SENSITIVITIES.dump_json(found).decode())
    else:
        show(found)


def show(found: list[Sensitivity]) -> None:
    """The most sensitive first; text, images and clips apart."""
    modalities = list(found[0].kl)
    table = Table("alone int4 in groups of 32", *(f"KL {name}" for name in modalities), "of the weights", box=None)
    weights = sum(tensor.weights for tensor in found)
    for tensor in sorted(found, key=lambda tensor: -tensor.divergence):
        cells = (f"{tensor.kl[name]:.5f}" for name in modalities)
        table.add_row(tensor.label, *cells, f"{tensor.weights / weights:.1%}")
    Console().print(table)
    Console().print("Image and audio embedders are never quantized: their KL is what the decoder does to them.")


if __name__ == "__main__":
    typer.run(main)
