"""Folders of safetensors, by their headers alone; of compressed-tensors' packed weights the true bits."""

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from runtime.errors import UserError
from runtime.inspection.description import Description, Fact, Part, Weights, tally
from runtime.manifest import RECORD, Recipe, Source
from runtime.tensors import shards
from runtime.untrusted import read_object

AGAIN = "download or quantize the checkpoint again"
SUFFIX = ".safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
PACKED, SHAPE, SCALE = ".weight_packed", ".weight_shape", ".weight_scale"
DTYPES = {"BOOL": "bool", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
KINDS = {"F": "float", "I": "int", "U": "uint"}


class _Tensor(NamedTuple):
    dtype: str  # as safetensors calls it
    shape: tuple[int, ...]


def describe(path: Path) -> Description:
    """
    Args:
        path: of a folder of safetensors, or of one such file.

    Raises:
        UserError: a file is missing, damaged or cut short, or one of JSON beside them is none.
    """
    folder = path if path.is_dir() else path.parent
    paths = _paths(path) if path.is_dir() else [path]
    beside = sorted(file for file in folder.iterdir() if file.is_file()) if path.is_dir() else [path]
    files = {file.name: file.stat().st_size for file in beside}
    record, config = ((_read_json(folder / name) if path.is_dir() else {}) for name in (RECORD, CONFIG))
    return Description(
        path=str(path),
        kind="checkpoint",
        size=sum(files.values()),
        files=files,
        source=_validated(folder, Source, record.get("source")),
        recipe=_validated(folder, Recipe, record.get("recipe")),
        weights=tally(weights for file in paths for weights in _weights(file)),
        facts=_facts(record, config),
    )


def _paths(folder: Path) -> list[Path]:
    """All that lie there and all that the index names."""
    named = shards(folder / INDEX, AGAIN) if (folder / INDEX).exists() else {}
    return sorted({folder / name for name in named.values()} | set(folder.glob(f"*{SUFFIX}")))


def _read_json(path: Path) -> dict[str, Any]:
    """Empty where there is none."""
    return read_object(path, AGAIN) if path.exists() else {}


def _validated(folder: Path, kind: Any, found: Any) -> Any:
    """A part of the record; None where there is no record."""
    try:
        return kind.model_validate(found) if found is not None else None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{folder / RECORD}: {kind.__name__.lower()}: {first['msg']}; quantize it again") from None


def _facts(record: dict[str, Any], config: dict[str, Any]) -> dict[str, Fact]:
    quantization = config.get("quantization_config") or {}
    found = {
        "model_type": config.get("model_type"),
        "quantization": " ".join(filter(None, (quantization.get("quant_method"), quantization.get("format")))) or None,
        "rms_error": record.get("error"),  # of the weights, relative
        "plain_rms_error": record.get("plain_error"),  # had each scale just covered its group's largest
        "digests": len(record["tensors"]) if "tensors" in record else None,
    }
    return {name: fact for name, fact in found.items() if fact is not None}


def _weights(path: Path) -> Iterator[Weights]:
    """Of one file.

    Raises:
        UserError: it is missing, damaged or cut short.
    """
    try:
        with safe_open(path, framework="np") as opened:
            pieces = {key: opened.get_slice(key) for key in opened.offset_keys()}
            tensors = {key: _Tensor(piece.get_dtype(), tuple(piece.get_shape())) for key, piece in pieces.items()}
            shapes = {key.removesuffix(SHAPE): opened.get_tensor(key) for key in tensors if key.endswith(SHAPE)}
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{path} is missing, cut short or damaged ({error}): download or quantize it again") from None
    for key, tensor in tensors.items():
        yield _stored(key, tensor, shapes)


def _stored(key: str, tensor: _Tensor, shapes: dict[str, NDArray[np.int64]]) -> Weights:
    """
    Args:
        shapes: of packed weights, by module.
    """
    dtype, bits = _dtype(tensor.dtype)
    size, module = -(-prod(tensor.shape) * bits // 8), key.removesuffix(PACKED)
    if key.endswith(PACKED) and module in shapes:
        rows, columns = (int(count) for count in shapes[module])
        width = tensor.shape[-1] * bits // columns  # rows may end in unused bits, fewer than one for each column
        return Weights(dtype=f"int{width}", part="codes", bits=width, values=rows * columns, bytes=size)
    part: Part = "scales" if key.endswith(SCALE) else "values"
    return Weights(dtype=dtype, part=part, bits=bits, values=prod(tensor.shape), bytes=size)


def _dtype(name: str) -> tuple[str, int]:
    """As NumPy calls it, and the bits of a value."""
    kind, digits = re.fullmatch(r"([A-Z]+)(\d*).*", name).groups()  # type: ignore[union-attr]  # "F8_E4M3"
    return DTYPES.get(name, f"{KINDS.get(kind, kind.lower())}{digits}"), int(digits or 8)
