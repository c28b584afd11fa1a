"""The text decoder of Gemma 3 and 4, described once. T is the number of positions of one step."""

from collections.abc import Sequence

from export.config import Layer, Text
from export.graph.vocabulary import Tensor, Vocabulary


def embed_tokens(ops: Vocabulary[Tensor], ids: Tensor, text: Text) -> Tensor:
    """int [1, T] -> [1, T, hidden]"""
    return ops.scale(ops.embed(ids, text.embedding), text.hidden**0.5)


def decode(ops: Vocabulary[Tensor], x: Tensor, text: Text) -> Tensor:
    """[1, T, hidden] -> [1, wanted, vocabulary]: all layers and the head."""
    return project_logits(ops, run_layers(ops, x, text.layers), text)


def run_layers(ops: Vocabulary[Tensor], x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """[1, T, hidden] -> same, through all layers of a model or any run of them."""
    for layer in layers:
        x = decoder_layer(ops, x, layer)
    return x


def project_logits(ops: Vocabulary[Tensor], x: Tensor, text: Text) -> Tensor:
    """[1, T, hidden] -> [1, wanted, vocabulary]"""
    x = ops.rms_norm(ops.keep_wanted(x), f"{text.name}.norm", text.eps, text.norm_offset)
    logits = ops.linear(x, text.head)
    return ops.softcap(logits, text.softcap) if text.softcap else logits


def decoder_layer(ops: Vocabulary[Tensor], x: Tensor, layer: Layer) -> Tensor:
    """[1, T, hidden] -> same. Each branch is normalized on its way in and again on its way out."""

    def norm(x: Tensor, name: str) -> Tensor:
        return ops.rms_norm(x, f"{layer.name}.{name}", layer.eps, layer.norm_offset)

    branch = attention(ops, norm(x, "input_layernorm"), layer)
    x = ops.add(x, norm(branch, "post_attention_layernorm"))
    branch = feed_forward(ops, norm(x, "pre_feedforward_layernorm"), layer)
    x = ops.add(x, norm(branch, "post_feedforward_layernorm"))
    return ops.multiply(x, ops.weight(f"{layer.name}.layer_scalar")) if layer.scales_output else x


def attention(ops: Vocabulary[Tensor], x: Tensor, layer: Layer) -> Tensor:
    """[1, T, hidden] -> same"""
    name = f"{layer.name}.self_attn"
    q = ops.split_heads(ops.linear(x, f"{name}.q_proj"), layer.query_heads)
    q = ops.rms_norm(q, f"{name}.q_norm", layer.eps, layer.norm_offset)
    k, v = keys_and_values(ops, x, layer) if layer.owns_cache else (None, None)
    return ops.linear(ops.attend(q, k, v, layer), f"{name}.o_proj")


def keys_and_values(ops: Vocabulary[Tensor], x: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """[1, T, hidden] -> heads, twice. Where keys are values, both start from one projection."""
    name = f"{layer.name}.self_attn"
    k = ops.split_heads(ops.linear(x, f"{name}.k_proj"), layer.kv_heads)
    v = k if layer.keys_are_values else ops.split_heads(ops.linear(x, f"{name}.v_proj"), layer.kv_heads)
    k = ops.rms_norm(k, f"{name}.k_norm", layer.eps, layer.norm_offset)
    return k, ops.rms_norm(v, None, layer.eps) if layer.normalizes_values else v


def feed_forward(ops: Vocabulary[Tensor], x: Tensor, layer: Layer) -> Tensor:
    """[1, T, hidden] -> same"""
    name = f"{layer.name}.mlp"
    gate = ops.gelu_tanh(ops.linear(x, f"{name}.gate_proj"))
    return ops.linear(ops.multiply(gate, ops.linear(x, f"{name}.up_proj")), f"{name}.down_proj")
