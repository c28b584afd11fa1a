"""Where the bytes are: files by component, and weights by part of the model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import PurePosixPath

from runtime.manifest import Artifact, Manifest, TensorDigest

SHARED, GOLDENS = "shared", "goldens"  # beside the formats
TOKENIZER = re.compile(r"tokenizer|special_tokens_map")
CONFIGURATION = {".json", ".jinja"}
WEIGHTS = "weights"
SCALE_BITS = 16  # of a group's scale in the quantized checkpoint
PARTS = {
    "vision": "vision",
    "audio": "speech",
    "embed_tokens": "embedding",
    "lm_head": "head",
}  # part of a name -> part


@dataclass(frozen=True)
class Component:
    """Files of one kind in one format, or beside the formats."""

    place: str
    name: str
    size: int  # bytes
    files: int


@dataclass(frozen=True)
class Part:
    """Weights of one part of the model, as the quantized checkpoint stores them."""

    name: str
    weights: int
    bits: int

    @property
    def bits_per_weight(self) -> float:
        return self.bits / self.weights if self.weights else 0.0


def components(manifest: Manifest) -> list[Component]:
    """Format by format, the largest first; then what formats share, and the goldens."""
    found: dict[tuple[str, str], list[int]] = {}
    for file in manifest.files:
        place = _place(file.path, manifest)
        name = _component(file.path, manifest.artifacts.get(place))
        found.setdefault((place, name), []).append(file.size)
    places = [*manifest.artifacts, SHARED, GOLDENS]
    rows = [Component(place, name, sum(sizes), len(sizes)) for (place, name), sizes in found.items()]
    return sorted(rows, key=lambda row: (places.index(row.place), -row.size, row.name))


def format_sizes(rows: Iterable[Component]) -> dict[str, int]:
    """Bytes by place."""
    totals: dict[str, int] = {}
    for row in rows:
        totals[row.place] = totals.get(row.place, 0) + row.size
    return totals


def parts(tensors: Iterable[TensorDigest]) -> list[Part]:
    """The part with most weights first."""
    found: dict[str, list[TensorDigest]] = {}
    for tensor in tensors:
        found.setdefault(_part(tensor.name), []).append(tensor)
    rows = [Part(name, sum(map(_weights, those)), sum(map(_bits, those))) for name, those in found.items()]
    return sorted(rows, key=lambda row: -row.weights)


def total(rows: Iterable[Part]) -> Part:
    """All of them as one."""
    there = list(rows)
    return Part("all", sum(row.weights for row in there), sum(row.bits for row in there))


def _place(path: str, manifest: Manifest) -> str:
    folder = PurePosixPath(path).parts[0]
    return folder if folder in (*manifest.artifacts, GOLDENS) else SHARED


def _component(path: str, artifact: Artifact | None) -> str:
    """What a file is for: the programs in it, or what its name says."""
    if artifact and (roles := _roles(path, artifact)):
        return roles
    name = PurePosixPath(path)
    if name.parts[0] == GOLDENS:
        return GOLDENS
    if TOKENIZER.match(name.name):
        return "tokenizer"
    return "configuration" if name.suffix in CONFIGURATION else WEIGHTS if artifact else "other"


def _roles(path: str, artifact: Artifact) -> str:
    """Of the programs in a file or, where a program is a folder, around it; and of a table that a host reads."""
    if artifact.host and path in (artifact.host.embedding.codes, artifact.host.embedding.scales):
        return "embedding"
    programs = artifact.programs.items()
    roles = {_role(role) for role, program in programs if f"{path}/".startswith(f"{program.file}/")}
    return ", ".join(sorted(roles))


def _role(program: str) -> str:
    """`chunk_03.prefill` is a piece of the decoder."""
    name = re.sub(r"_\d+$", "", program.partition(".")[0])
    return "decoder" if name == "chunk" else name


def _part(tensor: str) -> str:
    return next((part for mark, part in PARTS.items() if mark in tensor), "decoder")


def _weights(tensor: TensorDigest) -> int:
    return prod(tensor.shape)


def _bits(tensor: TensorDigest) -> int:
    """Codes, or values as the source has them, and a scale for each group of a quantized row."""
    width = int(re.sub(r"^\D+(\d+).*", r"\1", tensor.dtype))
    scales = _weights(tensor) // (tensor.group or tensor.shape[1]) if tensor.scales_sha256 else 0
    return _weights(tensor) * width + scales * SCALE_BITS
