"""GGUF files as sources: unpacked, some rows at a time, into a folder in Hugging Face layout.

Names, configuration and tokenizer are what transformers makes of the file. F16 and BF16 stay as they are; all else
becomes fp32, in which a code of Q4_0 or Q8_0 times its scale is exact.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from export.folders import locked, put_in_place, require_space, write_atomically
from export.shards import Entry, ShardWriter
from runtime.architectures import CLASSES, new_model
from runtime.errors import UserError, first_line
from runtime.progress import progress
from runtime.tensors import SINGLE

BLOCK = 2**22  # weights unpacked at once
KEPT = {"F16": torch.float16, "BF16": torch.bfloat16}  # types of GGUF that stay as they are
STAMP = ".gguf.json"  # what file the folder was made from
LAYERS_27B = 62
HUB = "use a checkpoint in Hugging Face layout, such as google/gemma-4-12B-it-qat-q4_0-unquantized"


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file, and what it becomes."""

    stored: Any  # gguf's ReaderTensor, mapped
    entry: Entry

    def blocks(self) -> Iterator[slice]:
        """Rows that are unpacked at once."""
        rows = self.entry.shape[0]
        step = max(1, BLOCK * rows // torch.Size(self.entry.shape).numel())
        yield from (slice(start, start + step) for start in range(0, rows, step))


def unpack(path: Path, folder: Path) -> Path:
    """Returns a folder in Hugging Face layout: of a GGUF file, `folder`/<its name>; any other path as it is.

    A folder that was made from the same file before serves again.

    Raises:
        UserError: the package gguf is missing, the file is damaged, of an architecture that is not known here, or
            without a tokenizer, or the disk is too small.
    """
    if path.suffix != ".gguf":
        return path
    unpacked = folder / path.stem
    stamp = json.dumps({"path": str(path.resolve()), "size": path.stat().st_size, "changed": path.stat().st_mtime_ns})
    if (unpacked / STAMP).is_file() and (unpacked / STAMP).read_text() == stamp:
        return unpacked
    with locked(unpacked) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write(path, partial)
        write_atomically(partial / STAMP, stamp)
        put_in_place(partial, unpacked)
    return unpacked


def _write(path: Path, folder: Path) -> None:
    reader = _open(path)
    config = _config(path)
    if config.model_type == "gemma3_text":
        _complete_gemma3(config, reader)
    tensors = list(_tensors(reader, config))
    require_space(folder, sum(tensor.entry.bytes for tensor in tensors), f"unpacking {path.name}")
    config.save_pretrained(folder)
    _write_tokenizer(path, folder)
    _generation(reader, config).save_pretrained(folder)
    _write_card(reader, folder)
    _write_weights(tensors, config, path, folder)


def _open(path: Path) -> Any:
    """gguf's reader: the file is mapped."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError("GGUF files are read with the package gguf: pip install 'gemma4-edge[gguf]'") from None
    try:
        return GGUFReader(path)
    except Exception as error:  # whatever a damaged header leads it to
        raise UserError(f"{path} is cut short or no GGUF file ({first_line(error)}): download it again") from None


def _config(path: Path) -> Any:
    """Raises:
    UserError: transformers, or nothing here, knows the architecture.
    """
    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except Exception as error:
        raise UserError(f"{path}: transformers reads no configuration of it ({first_line(error)}): {HUB}") from None
    if config.model_type not in CLASSES:
        raise UserError(f"{path} is of architecture {config.model_type!r}, which cannot be exported: {HUB}")
    config.architectures = [CLASSES[config.model_type]]
    return config


def _complete_gemma3(config: Any, reader: Any) -> None:
    """What transformers 5.23 leaves at a default. Both change every logit.

    GGUF has no scale of scores: llama.cpp takes hidden_size / heads of the 27B's 62 layers, else head_dim
    (src/models/gemma3.cpp). Stretched rotation of full layers, which sizes from 4B on have, is in the file.
    """
    of_27b = config.num_hidden_layers == LAYERS_27B
    config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if of_27b else config.head_dim
    kind, factor = (reader.get_field(f"gemma3.rope.scaling.{name}") for name in ("type", "factor"))
    if kind and factor and kind.contents() != "none":
        rotation = config.rope_parameters["full_attention"]
        rotation |= {"rope_type": kind.contents(), "factor": float(factor.contents())}


def _tensors(reader: Any, config: Any) -> Iterator[Tensor]:
    """Those that the model has, in the order of the file."""
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    with torch.device("meta"):
        names: Mapping[str, str] = get_gguf_hf_weights_map(new_model(config), _processor(config))
    for stored in (stored for stored in reader.tensors if stored.name in names):
        shape = tuple(int(size) for size in reversed(stored.shape))  # the file has the fastest axis first
        yield Tensor(stored, Entry(names[stored.name], KEPT.get(stored.tensor_type.name, torch.float32), shape))


def _processor(config: Any) -> Any:
    """What transformers changes in the values: Gemma 3's norms, to which llama.cpp adds 1."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

    return TENSOR_PROCESSORS[config.model_type.removesuffix("_text")](config=config.to_dict())


def _write_weights(tensors: list[Tensor], config: Any, path: Path, folder: Path) -> None:
    """One file, as ShardWriter holds no more than the rows on their way."""
    processor = _processor(config)
    total = sum(tensor.entry.bytes for tensor in tensors)
    with (
        ShardWriter(folder / SINGLE, [tensor.entry for tensor in tensors]) as writer,
        progress(f"unpacking {path.name}", total) as advance,
    ):
        for tensor in tensors:
            for rows in tensor.blocks():
                values = _values(tensor, rows, processor)
                writer.append(tensor.entry.key, values)
                advance(values.nbytes)


def _values(tensor: Tensor, rows: slice, processor: Any) -> torch.Tensor:
    from gguf import dequantize

    stored = tensor.stored
    try:
        found = dequantize(stored.data[rows], stored.tensor_type)
    except NotImplementedError:
        raise UserError(
            f"{stored.name} is {stored.tensor_type.name}, which the package gguf does not unpack: {HUB}"
        ) from None
    values = np.ascontiguousarray(processor.process(found, stored.name).weights)
    return torch.from_numpy(values).to(tensor.entry.dtype)


def _write_tokenizer(path: Path, folder: Path) -> None:
    """With the chat template, if the file has one."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except Exception as error:
        raise UserError(f"{path}: transformers reads no tokenizer of it ({first_line(error)}): {HUB}") from None
    tokenizer.save_pretrained(folder)


def _generation(reader: Any, config: Any) -> GenerationConfig:
    """A turn ends with the token that the file names for it, too."""
    fields = (reader.get_field(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot"))
    ends = list(dict.fromkeys(int(field.contents()) for field in fields if field))
    return GenerationConfig(bos_token_id=config.bos_token_id, eos_token_id=ends or config.eos_token_id,
                            pad_token_id=config.pad_token_id)  # fmt: skip


def _write_card(reader: Any, folder: Path) -> None:
    """The licence, where model cards have it."""
    licence = reader.get_field("general.license")
    if licence:
        (folder / "README.md").write_text(f"---\nlicense: {licence.contents()}\n---\n")
