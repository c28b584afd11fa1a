"""Weights of a Hugging Face folder, mapped from its files, by the names of transformers' parameters."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from runtime.errors import UserError, printable
from runtime.torchvision_shim import allow_torchvision
from runtime.untrusted import is_plain, read_object

AGAIN = "download or quantize the weights again"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONVERTED = "gemma4_unified"  # its published names are not those of transformers' modules; others' are


class Tensors:
    """Nothing is read but headers until a tensor's values are used.

    A file is opened anew for each tensor: what was read of a mapped file counts as this process's memory until it is
    closed and none of its tensors is left.
    """

    def __init__(self, folder: Path) -> None:
        """Raises:
        UserError: no weights there, or a file is missing or damaged.
        """
        self.folder = folder
        self._places: dict[str, tuple[Path, str]] = {}
        try:
            for path in _files(folder):
                self._places |= {module_name(key): (path, key) for key in _open(path).offset_keys()}
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"{folder}: its weights do not open ({error}); download or quantize them again") from None

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> Tensor:
        """In its own dtype, backed by the file.

        Raises:
            UserError: there is none of this name.
        """
        path, key = self._place(name)
        return _open(path).get_tensor(key)

    def rows(self, name: str, size: int) -> Iterator[Tensor]:
        """So many at a time, likewise."""
        path, key = self._place(name)
        count: int = _open(path).get_slice(key).get_shape()[0]
        for start in range(0, count, size):
            yield _open(path).get_slice(key)[start : start + size]

    def _place(self, name: str) -> tuple[Path, str]:
        if name not in self._places:
            raise UserError(f"{self.folder} has no {name}: download or quantize its weights again")
        return self._places[name]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """All whose names begin so, by the rest of their names."""
        return {name.removeprefix(prefix): self[name] for name in self._places if name.startswith(prefix)}


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    return (
        [folder / name for name in sorted(set(shards(index, AGAIN).values()))] if index.exists() else [folder / SINGLE]
    )


def _open(path: Path) -> Any:
    return safe_open(path, framework="pt")


def shards(index: Path, fix: str) -> dict[str, str]:
    """The file of each tensor, all of them beside the index.

    Raises:
        UserError: it is damaged, or names a file elsewhere.
    """
    found = read_object(index, fix).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise UserError(f"{index} has no weight_map from tensors to files: {fix}")
    for name in sorted({name for name in found.values() if not is_plain(name) or "/" in name}):
        raise UserError(f"{index} names {printable(name)!r}, which is no file beside it: {fix}")
    return found


def module_name(key: str) -> str:
    """A published file's name for a tensor -> that of transformers' parameter, by transformers' own table."""
    from transformers.core_model_loading import rename_source_key

    return rename_source_key(key, _renamings(), [])[0]


@cache
def _renamings() -> Any:
    allow_torchvision()
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping  # seconds to import

    return get_checkpoint_conversion_mapping(CONVERTED)
