"""Source checkpoints: Hugging Face folders of safetensors, opened lazily, one tensor or some rows at a time.

Tensors go by the names of the transformers modules that will hold them; published files use a few other names, which
transformers' own conversion table translates.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from runtime.architectures import new_model, require_known
from runtime.errors import UserError, first_line
from runtime.tensors import INDEX, SINGLE, module_name, shards
from runtime.untrusted import read_object, require_file

AGAIN = "download it again"
CONFIGURATION = "generation_config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json"
LAYERS = 512  # ten times as many as the 12B has: a config that asks for a billion takes all memory to be looked at
MAPPED = 2**28  # bytes read, after which files are opened anew
COMPARED = 2**24  # weights of a head that are held against the embedding at once
PART = re.compile(r"\.weight_(packed|scale|shape|zero_point|g_idx)$")  # of a packed weight
# How to round what enters a module.
ACTIVATIONS = re.compile(r"\.(input|output|[qkv])_(scale|zero_point|global_scale)$")
UNQUANTIZED = "choose the unquantized checkpoint"


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies."""

    name: str  # of the module's parameter
    key: str  # in its file
    file: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass
class Source:
    """An opened checkpoint. Nothing is read but headers until rows are asked for."""

    folder: Path
    config: Any  # transformers'
    tensors: dict[str, Stored]  # by name, in the order they lie in their files
    left_out: list[str] = field(default_factory=list)  # names in its files that the model does not use
    _files: dict[str, Any] = field(default_factory=dict)
    _mapped: int = 0  # bytes handed out of the files that are open

    @cached_property
    def fingerprint(self) -> str:
        """sha256 that changes whenever a file does, without reading the weights."""
        files = sorted({stored.file for stored in self.tensors.values()} | {"config.json"})
        facts: list[Any] = [(name, (stat := (self.folder / name).stat()).st_size, stat.st_mtime_ns) for name in files]
        facts += self.left_out + ([] if self.config.tie_word_embeddings else ["untied"])  # none of them in most
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Some rows of a tensor in its own dtype, mapped from the file where the library can."""
        stored = self.tensors[name]
        piece = self._opened(stored.file).get_slice(stored.key)
        rows = piece[start:stop] if stored.shape else piece[...]
        self._mapped += rows.nbytes
        return rows

    def _opened(self, file: str) -> Any:
        """Pages of a mapped file are memory of this process until no tensor is left of it and it is closed."""
        if self._mapped > MAPPED:
            self._files, self._mapped = {}, 0
        opened = self._files.get(file) or safe_open(self.folder / file, framework="pt")
        self._files[file] = opened
        return opened


def open_source(folder: Path) -> Source:
    """Opens a checkpoint and checks all that its headers can tell.

    Raises:
        UserError: a file is missing or cut short, the index names a tensor that no file has, the model is another,
            names or shapes contradict the config, or weights are quantized in a way that cannot be exported.
    """
    config = _read_config(folder)
    source = Source(folder, config, {stored.name: stored for stored in _read_headers(folder)})
    _settle_head(source)
    compare_with_config(source)
    _leave_out_unused(source)
    return source


def _read_config(folder: Path) -> Any:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} has no config.json: name a folder in Hugging Face layout, or a model id")
    found = read_object(path, AGAIN)
    require_known(found.get("model_type"), path)
    for beside in (folder / name for name in CONFIGURATION if (folder / name).exists()):
        read_object(beside, AGAIN)  # damage is told now, not in the middle of an export
    text = found.get("text_config") or found  # without one, all of it
    if not isinstance(text, dict) or not isinstance(layers := text.get("num_hidden_layers", 0), int) or layers > LAYERS:
        raise UserError(f"{path}: it asks for no number of layers up to {LAYERS}: {AGAIN}")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever values of other types lead transformers to
        raise UserError(f"{path} is no configuration of {found['model_type']} ({first_line(error)}): {AGAIN}") from None


def _read_headers(folder: Path) -> Iterator[Stored]:
    """Every tensor of every shard."""
    index = _read_index(folder)
    for file in sorted(set(index.values())) if index else [SINGLE]:
        stored = list(read_header(folder / file))
        keys = {tensor.key for tensor in stored}
        for key in (key for key, where in index.items() if where == file and key not in keys):
            raise UserError(f"{folder / INDEX} names {key}, which {file} does not have: download both again")
        yield from stored


def _read_index(folder: Path) -> dict[str, str]:
    """Tensor to file; empty for a checkpoint of one file."""
    if (folder / INDEX).exists():
        return shards(folder / INDEX, AGAIN)
    if not (folder / SINGLE).is_file():
        raise UserError(f"{folder} has neither {SINGLE} nor {INDEX}: download the checkpoint's weights")
    return {}


def read_header(path: Path) -> Iterator[Stored]:
    """Every tensor of one file, in the order of their bytes. Raises UserError for a missing or damaged file."""
    require_file(path, "download the checkpoint again")
    try:
        with safe_open(path, framework="pt") as opened:
            for key in opened.offset_keys():
                piece = opened.get_slice(key)
                dtype = _DTYPES.get(piece.get_dtype())
                if dtype is None:
                    raise UserError(f"{path}: {key} is {piece.get_dtype()}, which cannot be read here")
                yield Stored(module_name(key), key, path.name, tuple(piece.get_shape()), dtype)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is cut short or damaged ({first_line(error)}): {AGAIN}") from None


_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64,
           "I64": torch.int64, "I32": torch.int32, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}  # fmt: skip


def _empty_model(config: Any) -> Any:
    """transformers' own, without its memory."""
    try:
        with torch.device("meta"):
            return new_model(config)
    except Exception as error:  # sizes that contradict each other, or fit no tensor
        raise UserError(f"config.json describes no model ({first_line(error)}): {AGAIN}") from None


def expected_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """What a checkpoint of this config must hold; raises UserError for a config of no model."""
    model = _empty_model(config)
    tied = model.all_tied_weights_keys  # none unless the whole model's config says so, not its text_config
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def _settle_head(source: Source) -> None:
    """Where a head is stored though the config ties it, its values decide, as in transformers: equal ones are tied,
    others are kept apart. The config says afterwards which it was.
    """
    for head, embedding in _empty_model(source.config).all_tied_weights_keys.items():
        parts = _parts(source, head), _parts(source, embedding)
        if all(parts) and _hold_the_same(source, *parts):
            _leave_out(source, list(parts[0].values()))
        elif all(parts):
            _refuse_packed(source, head, embedding)
            source.config.tie_word_embeddings = False


def _refuse_packed(source: Source, head: str, embedding: str) -> None:
    """transformers opens none such, so that nothing says what it means."""
    if {head, embedding} - source.tensors.keys():
        raise UserError(f"{source.folder}: {head} is not {embedding}, to which config.json ties it, and one is packed: "
                        f"set tie_word_embeddings to false there, or {UNQUANTIZED}")  # fmt: skip


def _parts(source: Source, weight: str) -> dict[str, str]:
    """Names of the tensors that a weight is stored as, by what they are of it."""
    module = weight.removesuffix(".weight")
    return {name.removeprefix(module): name for name in source.tensors if _weight_of(name) == weight}


def _weight_of(name: str) -> str:
    return PART.sub(".weight", name)


def _hold_the_same(source: Source, *weights: dict[str, str]) -> bool:
    """Whether two weights are stored alike and their values are equal, in whatever dtypes."""
    first, second = weights
    return first.keys() == second.keys() and all(_equal(source, first[part], second[part]) for part in first)


def _equal(source: Source, *names: str) -> bool:
    shape, other = (source.tensors[name].shape for name in names)
    if shape != other or not shape:
        return False
    step = max(1, COMPARED * shape[0] // max(1, torch.Size(shape).numel()))
    return all(
        bool(torch.eq(*(source.rows(name, start, start + step) for name in names)).all())
        for start in range(0, shape[0], step)
    )


def _leave_out(source: Source, names: list[str]) -> None:
    source.left_out += names
    source.tensors = {name: stored for name, stored in source.tensors.items() if name not in names}


def _leave_out_unused(source: Source) -> None:
    """What transformers calls unexpected and does not load is no weight of the model: no artifact would hold it."""
    expected = expected_shapes(source.config)
    for name in source.tensors:
        _refuse_other_formats(source, name, expected)
    _leave_out(source, [name for name in source.tensors if _weight_of(name) not in expected])


def _refuse_other_formats(source: Source, name: str, expected: Mapping[str, object]) -> None:
    """Tensors that transformers does use, beside weights that compressed-tensors' other formats hold."""
    beside = PART.search(name) and _weight_of(name) in source.tensors
    rounding = ACTIVATIONS.search(name) and getattr(source.config, "quantization_config", None)
    if name not in expected and (beside or rounding):
        raise UserError(f"{source.folder}: {name} is of a quantization other than packed weights, which cannot be "
                        f"exported: {UNQUANTIZED}")  # fmt: skip


def compare_with_config(source: Source) -> None:
    """Raises:
    UserError: a weight is missing, or has another shape than the config makes it.
    """
    packed = {name.removesuffix(".weight_packed") + ".weight" for name in source.tensors if name.endswith("_packed")}
    for name, shape in expected_shapes(source.config).items():
        stored = source.tensors.get(name)
        if stored is None and name not in packed:
            raise UserError(
                f"{source.folder}: the weights lack {name}, which config.json asks for: download them again"
            )
        if stored is not None and stored.shape != shape:
            raise UserError(f"{source.folder}: {name} is {list(stored.shape)} but config.json makes it {list(shape)}: "
                            "weights and config are of different models")  # fmt: skip
