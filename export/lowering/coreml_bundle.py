"""All of a Core ML folder: packages, the embedding table beside them, and their description for the manifest."""

from pathlib import Path

import numpy as np

from export.config import Model
from export.lowering.coreml_ops import FP16
from export.lowering.coreml_ports import Sizes, describe_host
from export.lowering.coreml_program import write_packages
from export.lowering.coreml_weights import chunks
from export.weights import Weights
from runtime.manifest import Artifact, Table

CODES, SCALES = "embedding.codes", "embedding.scales"


def write_coreml(model: Model, weights: Weights, folder: Path, sizes: Sizes, identity: str,
                 dtype: type = FP16) -> Artifact:  # fmt: skip
    """Writes into an existing folder; returns the description, with files relative to the folder.

    Args:
        identity: see `write_packages`.
        dtype: see `write_packages`.

    Raises:
        UserError: layers share caches over packages, or a weight alone is too large for one.
    """
    programs = write_packages(model, weights, folder, sizes, identity, dtype)
    embedding = write_table(weights, f"{model.text.embedding}.weight", folder)
    return Artifact(programs=programs, host=describe_host(model, sizes, programs, embedding, identity))


def write_table(weights: Weights, name: str, folder: Path) -> Table:
    """The rows of an embedding as files to be mapped: in a package Core ML would expand them on the heap."""
    packed = weights.packed(name)
    if packed is None:
        values = weights.dense(name)
        _write(folder / CODES, values, np.dtype("<f4"))
        rows, columns = values.shape
        return Table(rows=rows, columns=columns, bits=32, codes=CODES, scales=None, group=columns)
    _write(folder / CODES, packed.codes, np.dtype("u1"))
    _write(folder / SCALES, packed.scales, np.dtype("<f2"))
    group = packed.columns // packed.scales.shape[1]
    return Table(
        rows=len(packed.codes),
        columns=packed.columns,
        bits=4 if packed.scheme.bits == 4 else 8,
        codes=CODES,
        scales=SCALES,
        group=group,
    )


def _write(path: Path, rows: np.ndarray, dtype: np.dtype) -> None:
    with path.open("wb") as file:
        for part in chunks(rows):
            file.write(np.ascontiguousarray(part, dtype).data)
