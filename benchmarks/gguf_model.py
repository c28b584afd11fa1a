"""A GGUF file for llama.cpp with random Q4_0 weights in the shapes of our decoder, for speed, never for quality.

llama.cpp's architecture is gemma3, which has one head size: all layers have the geometry of the sliding ones. Six
layers of the 12B come to 0.8 % fewer weights so. The head is tied to the embedding, as it is in ours.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError

BLOCK, BLOCK_BYTES = 32, 18  # weights of Q4_0 that share an fp16 scale, and what they take with it
CODE_SPREAD = 4.6  # standard deviation of uniform 4-bit codes
Text = Mapping[str, Any]  # keys of a published text_config
Shape = tuple[int, ...]


def gguf() -> Any:
    """The module that GGUF's own project publishes; only this benchmark needs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise UserError("gguf, which writes llama.cpp's model, is not installed: pip install gguf") from None
    return gguf


def write_gguf(path: Path, layers: int, text: Text) -> None:
    """Writes a model of so many decoder layers; appears whole or not at all. Holds one tensor at a time.

    Raises:
        UserError: gguf is not installed.
    """
    tools, unfinished = gguf(), path.with_name(f".{path.name}.partial")
    writer, generator = tools.GGUFWriter(unfinished, "gemma3"), np.random.default_rng(0)
    _describe(writer, layers, text)
    tensors = {**matrices(layers, text), **_norms(layers, text)}
    for name, shape in tensors.items():
        _declare(writer, name, shape, tools.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for shape in tensors.values():
        writer.write_tensor_data(_values(shape, generator))
    writer.close()
    unfinished.replace(path)


def matrices(layers: int, text: Text) -> dict[str, Shape]:
    """Shapes [outputs, inputs] of what is quantized, by llama.cpp's names."""
    hidden, wide = text["hidden_size"], text["intermediate_size"]
    queries, keys = (text["head_dim"] * text[heads] for heads in ("num_attention_heads", "num_key_value_heads"))
    one = {"attn_q": (queries, hidden), "attn_k": (keys, hidden), "attn_v": (keys, hidden),
           "attn_output": (hidden, queries), "ffn_gate": (wide, hidden), "ffn_up": (wide, hidden),
           "ffn_down": (hidden, wide)}  # fmt: skip
    stack = {f"blk.{layer}.{name}.weight": shape for layer in range(layers) for name, shape in one.items()}
    return {"token_embd.weight": (text["vocab_size"], hidden), **stack}


def matrix_bytes(layers: int, text: Text) -> int:
    """Of all of them; every token needs each once, the embedding as the head."""
    return sum(math.prod(shape) * BLOCK_BYTES // BLOCK for shape in matrices(layers, text).values())


def _norms(layers: int, text: Text) -> dict[str, Shape]:
    wide = dict.fromkeys(("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"), (text["hidden_size"],))
    one = wide | dict.fromkeys(("attn_q_norm", "attn_k_norm"), (text["head_dim"],))
    stack = {f"blk.{layer}.{name}.weight": shape for layer in range(layers) for name, shape in one.items()}
    return {"output_norm.weight": (text["hidden_size"],), **stack}


def _describe(writer: Any, layers: int, text: Text) -> None:
    """The keys that llama.cpp insists on. It makes up as many tokens as the vocabulary has, without a tokenizer."""
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(text["vocab_size"])
    writer.add_block_count(layers)
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_key_length(text["head_dim"])
    writer.add_value_length(text["head_dim"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_sliding_window(text["sliding_window"])


def _declare(writer: Any, name: str, shape: Shape, q4_0: Any) -> None:
    if len(shape) == 1:
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
        return
    stored = (shape[0], shape[1] // BLOCK * BLOCK_BYTES)
    writer.add_tensor_info(name, stored, np.dtype(np.uint8), math.prod(stored), q4_0)


def _values(shape: Shape, generator: np.random.Generator) -> NDArray:
    """Norms of 1; random codes, with a scale that keeps activations finite."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    blocks = np.empty((shape[0], shape[1] // BLOCK, BLOCK_BYTES), np.uint8)
    blocks[..., :2] = np.array([1 / (CODE_SPREAD * math.sqrt(shape[1]))], np.float16).view(np.uint8)
    blocks[..., 2:] = generator.integers(0, 256, (*blocks.shape[:2], BLOCK_BYTES - 2), np.uint8)
    return blocks.reshape(shape[0], -1)
