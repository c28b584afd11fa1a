"""What is told of a bundle, an artifact or a checkpoint: one record that every kind of file fills in."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from runtime.manifest import Limits, Port, Recipe, Record, Source

Kind = Literal["bundle", "onnx", "executorch", "coreml", "coreai", "checkpoint"]
Part = Literal["codes", "scales", "values"]  # of a quantized weight, of its groups, of all that is not quantized
Fact = str | bool | int | float | list[int]


class Graph(Record):
    """What can be called: a graph of ONNX, a method of ExecuTorch, a function of a Core ML package."""

    name: str
    file: str  # relative to what was inspected
    inputs: list[Port]
    outputs: list[Port]
    states: list[Port] = Field(default=[])
    operators: dict[str, int] = Field(default={})  # how many there are by name, the most frequent first
    delegates: dict[str, int] = Field(default={})  # calls of backends that run a part of it
    delegated: dict[str, int] = Field(default={})  # operators inside those parts, where the backend's data tell
    arenas: list[int] = Field(default=[])  # bytes of memory for caches and activations, where the file lays them out


class Weights(Record):
    """All that is stored as one type."""

    dtype: str  # of a value: "int4" where two lie in a byte, whatever the file calls them
    part: Part
    bits: int  # of a value
    values: int
    bytes: int  # in the file; what several graphs share counts once
    count: int = 1  # tensors


class Artifact(Record):
    """What a bundle's manifest says of a format, and what it takes."""

    bytes: int
    programs: list[str]  # their roles
    cache: dict[int, int]  # positions to bytes of keys and values


class Verdict(Record):
    """Of the verification when the bundle was made."""

    passed: bool
    ran: list[str]  # names of checks
    skipped: dict[str, str]  # name of check to the reason
    reference: str
    failed: list[str]  # names of measures that do not hold their gates
    measures: int


class Bundle(Record):
    """What only a manifest tells."""

    target: str
    limits: Limits
    artifacts: dict[str, Artifact]
    goldens: dict[str, str]  # name to modality
    tensors: int  # weights with a digest
    tools: dict[str, str]
    verdict: Verdict | None  # None: never verified


class Description(Record):
    """Sizes are in bytes, paths relative to what was inspected."""

    path: str
    kind: Kind
    size: int  # of all files
    files: dict[str, int]
    source: Source | None = None
    recipe: Recipe | None = None
    graphs: list[Graph] = Field(default=[])
    weights: list[Weights] = Field(default=[])  # the largest first
    facts: dict[str, Fact] = Field(default={})  # what else the files say of themselves
    notes: list[str] = Field(default=[])  # what could not be told, and why
    bundle: Bundle | None = None
    artifacts: dict[str, "Description"] = Field(default={})  # of a bundle, by format


def tally(stored: Iterable[Weights]) -> list[Weights]:
    """Added up by type, the largest first."""
    found: dict[tuple[str, Part], Weights] = {}
    for weights in stored:
        key = weights.dtype, weights.part
        found[key] = _sum(found[key], weights) if key in found else weights
    return sorted(found.values(), key=lambda weights: (-weights.bytes, weights.dtype, weights.part))


def _sum(one: Weights, other: Weights) -> Weights:
    fields = ("values", "bytes", "count")
    return one.model_copy(update={name: getattr(one, name) + getattr(other, name) for name in fields})
