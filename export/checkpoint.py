"""The quantized checkpoint: a standard compressed-tensors model, and beside it the record of how it was made.

The tied embedding cannot be loaded packed by transformers 5.23 (it ties only dense weights). The standard part
therefore holds its dequantized values, exact in the dtype they are stored in, and `embedding.safetensors` its codes.
A head that is not tied to it is stored likewise, its codes in `head.safetensors`.
"""

import filecmp
import hashlib
import json
import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from export.calibration.sensitivity import Sensitivity
from export.schemes import Scheme
from export.sources import Source, open_source, read_header
from export.weights import Packed
from runtime import manifest
from runtime.architectures import EMBEDDING
from runtime.errors import UserError
from runtime.manifest import RECORD

EMBEDDING_CODES, HEAD_CODES = "embedding.safetensors", "head.safetensors"
CONFIG = "config.json"
WEIGHT_FILES = re.compile(r"\.(safetensors|bin|gguf|pt|pth|h5|msgpack)$|\.index\.json$|^\.")


def codes_file(name: str) -> str:
    """Where a table's codes are kept; each table has a file, as it may be in a shard of its own."""
    return EMBEDDING_CODES if name.endswith(EMBEDDING) else HEAD_CODES


class TensorError(manifest.Record):
    """How far a quantized weight is from its source, as rms of the difference over rms of the weight."""

    name: str
    error: float
    plain_error: float  # had each scale just covered the largest weight of its group


class QuantizationRecord(manifest.Record):
    """`quantization.json`: everything about the weights that a bundle's manifest repeats, and where they came from."""

    source: manifest.Source
    source_path: str
    plan: dict[str, Any]  # what must be equal for the checkpoint to serve again
    recipe: manifest.Recipe
    tensors: list[manifest.TensorDigest]
    errors: list[TensorError]
    error: float  # over all quantized weights
    plain_error: float
    grid: dict[str, int]  # groups by grid.Fit, where the source's weights were on a grid already; else empty
    sensitivity: list[Sensitivity] = Field(default_factory=list)  # measured for recipes that have a budget
    notes: list[str] = Field(default_factory=list)  # where it differs from what its name or recipe promises

    @property
    def identity(self) -> str:
        """sha256 that two checkpoints share only if all their weights are equal."""
        digests = [tensor.model_dump() for tensor in self.tensors]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def read_record(folder: Path) -> QuantizationRecord | None:
    """None where the folder is no quantized checkpoint of this version."""
    try:
        return QuantizationRecord.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def files_beside(folder: Path) -> list[Path]:
    """All that lies beside the weights and what describes them: what a quantized checkpoint has from its source."""
    described = CONFIG, RECORD
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not WEIGHT_FILES.search(path.name))
    return [path for path in paths if path.name not in described]


def same_beside(source: Path, folder: Path) -> bool:
    """Whether these files of two folders are equal."""
    names = [path.name for path in files_beside(source)]
    return names == [path.name for path in files_beside(folder)] and all(
        filecmp.cmp(source / name, folder / name, shallow=False) for name in names
    )


def copy_beside(source: Path, folder: Path) -> None:
    """Makes these files of `folder` those of `source`, each whole or not at all."""
    paths = files_beside(source)
    for path in paths:
        beside = folder / f".{path.name}.partial"
        shutil.copyfile(path, beside)
        beside.replace(folder / path.name)
    for path in files_beside(folder):
        if path.name not in {kept.name for kept in paths}:
            path.unlink()


class CheckpointWeights:
    """`Weights` of a quantized checkpoint, mapped from its files."""

    def __init__(self, folder: Path) -> None:
        self.source: Source = open_source(folder)
        files = [folder / name for name in (EMBEDDING_CODES, HEAD_CODES) if (folder / name).exists()]
        self._codes = Source(folder, self.config, {some.name: some for file in files for some in read_header(file)})

    @cached_property
    def config(self) -> Any:
        """transformers'"""
        return self.source.config

    def dense(self, name: str) -> NDArray[np.float32]:
        packed = self.packed(name)
        if packed is not None:
            return packed.dense
        if name not in self.source.tensors:
            raise UserError(f"{self.source.folder} has no {name}: quantize the checkpoint again")
        return self.source.rows(name).float().numpy()

    def packed(self, name: str) -> Packed | None:
        module = name.removesuffix(".weight")
        for source in (self._codes, self.source):
            if f"{module}.weight_packed" in source.tensors:
                return _read_packed(source, module)
        return None


def _read_packed(source: Source, module: str) -> Packed:
    columns = int(source.rows(f"{module}.weight_shape")[1])
    codes = source.rows(f"{module}.weight_packed").view(torch.uint8).numpy()
    scales = source.rows(f"{module}.weight_scale").float().numpy()
    groups = scales.shape[1]
    bits = codes.shape[1] * 8 // columns
    scheme = Scheme(bits, None if bits == 8 and groups == 1 else columns // groups)  # int8 goes by rows
    return Packed(scheme, codes, scales)
