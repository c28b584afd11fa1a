"""All that happens before a calibrated recipe rounds its first weight."""

from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from export.calibration.budget import Budget, Step, choose, points, trade_off
from export.calibration.corpus import Corpus
from export.calibration.sensitivity import SCHEMES, Sensitivity, measure_sensitivity
from export.calibration.streamed import calibrate
from export.config import read_model
from export.folders import write_atomically
from export.recipes import EMBEDDING, PROJECTION, Recipe
from export.sources import Source
from runtime.errors import UserError
from runtime.sessions.base import ModelInputs

CALIBRATION_VERSION = 4  # of what this package does; what another one began is not resumed, nor what it made taken
SENSITIVITY = "sensitivity.json"
PROBE_TEXTS, PROBE_LENGTH, PROBE_MEDIA = 2, 256, 2  # pieces of text, their tokens; images and clips of each kind
SENSITIVITIES = TypeAdapter(list[Sensitivity])


@dataclass(frozen=True)
class Prepared:
    """A recipe that knows each weight's scheme, and what it rests on."""

    recipe: Recipe
    sensitivity: list[Sensitivity]  # empty where the recipe asks for none


def prepare(source: Source, recipe: Recipe, corpus: Corpus, budget: Budget | None, folder: Path) -> Prepared:
    """Chooses schemes for the budget, if there is one, and calibrates the layers; keeps what it finds in `folder`.

    Raises:
        UserError: the budget is too small, or see `calibrate`.
    """
    folder.mkdir(exist_ok=True)
    sequences, sensitivity = corpus.sequences(read_model(source.config), source.folder), []
    if budget:
        _require_widths(source)
        sensitivity = _sensitivity(source, sequences, folder)
        recipe = spend(source, recipe, sensitivity, budget)
    calibrate(source, recipe, sequences, folder)
    return Prepared(recipe, sensitivity)


def probes(sequences: list[ModelInputs]) -> list[ModelInputs]:
    """A few short ones, of every modality: sensitivity takes as many passes as there are layers."""
    texts = [ModelInputs(some.input_ids[:PROBE_LENGTH]) for some in sequences if not _has_media(some)]
    images = [some for some in sequences if some.pixel_values is not None]
    clips = [some for some in sequences if some.input_features is not None]
    return [*texts[:PROBE_TEXTS], *images[:PROBE_MEDIA], *clips[:PROBE_MEDIA]]


def _has_media(inputs: ModelInputs) -> bool:
    return inputs.pixel_values is not None or inputs.input_features is not None


def _sensitivity(source: Source, sequences: list[ModelInputs], folder: Path) -> list[Sensitivity]:
    """Measured once."""
    path = folder / SENSITIVITY
    if not path.exists():
        found = measure_sensitivity(source.folder, sequences, probes(sequences))
        write_atomically(path, SENSITIVITIES.dump_json(found).decode())
    return SENSITIVITIES.validate_json(path.read_bytes())


def spend(source: Source, recipe: Recipe, sensitivity: list[Sensitivity], budget: Budget) -> Recipe:
    """The recipe with the schemes that the budget pays for; shows what others would."""
    columns = [source.tensors[tensor.name].shape[1] for tensor in sensitivity]
    names = {tensor.name for tensor in sensitivity}
    weights = sum(tensor.weights for tensor in sensitivity)
    others = sum(stored.bytes for stored in source.tensors.values() if stored.name not in names)
    curve = trade_off(sensitivity, columns)
    _show(points(curve), weights, others)
    schemes = choose(sensitivity, curve, budget.bits_for(weights, others))
    return replace(recipe, scheme_of=schemes.get)


def _show(curve: list[Step], weights: int, others: int) -> None:
    table = Table("bits per quantized weight", "weights, GB", "predicted KL, nats", box=None)
    for step in curve:
        table.add_row(f"{step.bits / weights:.2f}", f"{(step.bits / 8 + others) / 1e9:.3g}", f"{step.kl:.4f}")
    Console(stderr=True).print(table)


def _require_widths(source: Source) -> None:
    largest = max(scheme.group or 0 for scheme in SCHEMES)
    for stored in source.tensors.values():
        quantized = PROJECTION.search(stored.name) or EMBEDDING.search(stored.name)
        if quantized and stored.shape[1] % largest:
            raise UserError(f"{stored.name} is {list(stored.shape)}: recipe auto wants rows of a multiple of "
                            f"{largest}; export with RECIPE=int4-gptq")  # fmt: skip
