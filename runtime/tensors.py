"""Weights of a Hugging Face folder, mapped from its files, by the names of transformers' parameters."""

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
MODEL_TYPE = "gemma4_unified"


class Tensors:
    """Nothing is read but headers until a tensor's values are used."""

    def __init__(self, folder: Path) -> None:
        """Raises:
        UserError: no weights there, or a file is missing or damaged.
        """
        try:
            files = {name: safe_open(folder / name, framework="pt") for name in _files(folder)}
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"{folder}: its weights do not open ({error}); download or quantize them again") from None
        self.folder = folder
        self._places = {module_name(key): (file, key) for file in files.values() for key in file.offset_keys()}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> Tensor:
        """In its own dtype, backed by the file.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self._places:
            raise UserError(f"{self.folder} has no {name}: download or quantize its weights again")
        file, key = self._places[name]
        return file.get_tensor(key)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """All whose names begin so, by the rest of their names."""
        return {name.removeprefix(prefix): self[name] for name in self._places if name.startswith(prefix)}


def _files(folder: Path) -> list[str]:
    index = folder / INDEX
    return sorted(set(shards(index, AGAIN).values())) if index.exists() else [SINGLE]


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

    return get_checkpoint_conversion_mapping(MODEL_TYPE)
