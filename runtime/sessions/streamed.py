"""The reference where its weights do not fit the memory: transformers' own layers, one of them loaded at a time.

Each layer is loaded once for a whole batch of sequences, which pass through it one after another. The head, whose
weight is the largest of all, is multiplied some rows at a time.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime import heap
from runtime.architectures import decoder_prefix, new_model
from runtime.errors import UserError
from runtime.greedy import Greedy
from runtime.manifest import Tokens
from runtime.progress import Status
from runtime.scratch import scratch
from runtime.sessions.base import ModelInputs, Positions
from runtime.sessions.past import Past, Scales
from runtime.sessions.reference import (
    Blocks,
    count_weights,
    enough_threads,
    int8_activations,
    read_config,
    round_inputs,
    tensors_of,
)
from runtime.sessions.unpacked import UnpackedLayers
from runtime.tensors import Tensors

HEAD = "lm_head"
HEAD_ROWS = 2**13  # of the vocabulary at once
TRIMMED = 2**26  # bytes of a layer that are worth the 20 ms of a trim


class StreamedReference:
    """What `ReferenceSession` computes, for batches of sequences; `variant` shares its files and options."""

    def __init__(
        self, model: "StreamedModel", blocks: Blocks | None = None, kv_scales: Scales | None = None,
        half_cache: bool = False,
    ) -> None:  # fmt: skip
        """See `ReferenceSession`."""
        self.model = model
        self.blocks = blocks or {}
        self.kv_scales = kv_scales
        self.half_cache = half_cache

    @classmethod
    def open(
        cls, checkpoint: Path, dtype: torch.dtype = torch.float32, status: Status = lambda text: None
    ) -> "StreamedReference":
        """
        Args:
            dtype: of weights and activations.
            status: told which layer runs.

        Raises:
            UserError: no checkpoint there that transformers opens.
        """
        return cls(StreamedModel(checkpoint, dtype, status))

    def variant(
        self, blocks: Blocks | None = None, kv_scales: Scales | None = None, half_cache: bool = False
    ) -> "StreamedReference":
        """The same weights with other arithmetic."""
        return StreamedReference(self.model, blocks, kv_scales, half_cache)

    def read(self, sequences: Sequence[ModelInputs], wanted: Sequence[Positions]) -> NDArray[np.float32]:
        """See `Reference`."""
        steps = [Step(inputs, self._past()) for inputs in sequences]
        return self._run(steps, wanted, keep=False)

    def generate(self, prompts: Sequence[ModelInputs], tokens: Tokens, steps: int) -> list[Greedy]:
        """See `Reference`. All texts grow by a token in each pass over the weights."""
        texts = [Greedy(tokens, steps) for _ in prompts]
        going = [(text, Step(prompt, self._past())) for text, prompt in zip(texts, prompts, strict=True)]
        while going:
            logits = self._run([step for _, step in going], [[-1]] * len(going), keep=True)
            for (text, _), row in zip(going, logits, strict=True):
                text.add(row)
            going = [(text, step.next(text.chosen[-1])) for text, step in going if not text.ended]
        return texts

    def _past(self) -> Past:
        return Past(self.model.config, self.kv_scales, self.half_cache)

    @torch.inference_mode()
    def _run(self, steps: "Sequence[Step]", wanted: Sequence[Positions], keep: bool) -> NDArray[np.float32]:
        """Logits at the wanted positions of each step; with `keep`, pasts hold their keys and values afterwards."""
        with enough_threads(self.model.stem):
            flows = [self.model.begin(step.inputs, step.past) for step in steps]
            for index in range(self.model.depth):
                self.model.status(f"layer {index + 1} of {self.model.depth}, {len(flows)} sequences")
                with self.model.layer(index) as layer, int8_activations(layer, self._blocks_of(index)):
                    for flow in flows:
                        flow.through(layer, index, keep)
            rows = [flow.hidden[0, np.asarray(positions)] for flow, positions in zip(flows, wanted, strict=True)]
            return self.model.logits(torch.cat(rows), self.blocks.get(HEAD, 0))

    def _blocks_of(self, index: int) -> dict[str, int | None]:
        """By the layer's own names of its linears."""
        prefix = f"{self.model.layer_prefix(index)}."
        return {name.removeprefix(prefix): size for name, size in self.blocks.items() if name.startswith(prefix)}


@dataclass
class Step:
    """Positions that are appended to a sequence."""

    inputs: ModelInputs
    past: Past

    def next(self, token: int) -> "Step":
        """One token on."""
        return Step(ModelInputs(np.array([token], np.int64)), self.past)


@dataclass
class Flow:
    """A step on its way through the layers."""

    hidden: Tensor  # [1, T, width]
    past: Past
    shared: Any  # keys and values that later layers use again, where a config has such layers
    masks: dict[str, Tensor]  # by kind of layer
    rotations: dict[str, tuple[Tensor, Tensor]]  # likewise: cos and sin

    def through(self, layer: nn.Module, index: int, keep: bool) -> None:
        """One layer on; with `keep`, its keys and values stay in the past, otherwise they go at once."""
        self.hidden = self.after(layer, index, self.past.cache)
        if keep:
            self.past.compact(index)
        else:
            self.past.cache.layers[index] = None

    def after(self, layer: nn.Module, index: int, cache: Any = None) -> Tensor:
        """[1, T, width] behind a layer, where the flow itself does not go; without a cache, of a whole sequence."""
        kind = self.past.config.get_text_config().layer_types[index]
        return layer(
            self.hidden, shared_kv_states=self.shared, position_embeddings=self.rotations[kind],
            attention_mask=self.masks[kind], past_key_values=cache,
        )  # fmt: skip


class StreamedModel:
    """transformers' model without weights, but for the small ones; layers are filled when they are asked for."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype, status: Status) -> None:
        """Raises:
        UserError: no checkpoint there that transformers opens.
        """
        self.dtype = dtype
        self.status = status
        self.stem, self._quantizer = _without_weights(checkpoint, dtype)
        self.tensors = Tensors(checkpoint)
        self.config = self.stem.config
        self.prefix = decoder_prefix(self.config)
        self.embedding = f"{self.prefix}.embed_tokens.weight"  # name of the weight
        self._layers, self._norm = self._cut()
        self._unpacked = UnpackedLayers(count_weights(checkpoint)) if self._quantizer else None

    @property
    def depth(self) -> int:
        """Layers."""
        return len(self._layers)

    def layer_prefix(self, index: int) -> str:
        """Of the names of a layer's weights, without its last dot."""
        return f"{self.prefix}.layers.{index}"

    def _cut(self) -> tuple[nn.ModuleList, nn.Module]:
        """Leaves of the model what makes embeddings: its forward returns them now. Returns layers and the last norm."""
        text = self.decoder
        layers, norm = text.layers, text.norm
        text.layers, text.norm = nn.ModuleList(), nn.Identity()
        text.rotary_emb = type(text.rotary_emb)(
            self.config.get_text_config()
        )  # its frequencies are computed, not loaded
        scale = text.embed_tokens.scalar_embed_scale
        text.embed_tokens = MappedEmbedding(self.tensors[self.embedding], scale, self.dtype)
        for name in ("embed_vision", "embed_audio"):
            if embedder := getattr(self.stem.model, name, None):
                self._fill(embedder, f"model.{name}.")
        return layers, self._fill(norm, f"{self.prefix}.norm.")

    @property
    def decoder(self) -> Any:
        """What makes embeddings, of the small weights alone."""
        return self.stem.get_submodule(self.prefix)

    def _fill(self, module: nn.Module, prefix: str) -> nn.Module:
        """With weights in the model's dtype, packed ones dequantized as `load_model` does.

        Raises:
            UserError: weights are missing or of other shapes.
        """
        self._assign(module, self.tensors.under(prefix), prefix)
        if self._quantizer:
            dequantize(module, self._quantizer)
        return module.eval().requires_grad_(False)

    def _assign(self, module: nn.Module, stored: Mapping[str, Tensor], prefix: str) -> None:
        """Tensors by their names in the module."""
        tensors = {name: x.to(self.dtype) if x.is_floating_point() else x for name, x in stored.items()}
        try:
            module.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split("\n", 1)[-1].split())
            raise UserError(f"{self.tensors.folder}: weights of {prefix[:-1]} are not those that config.json asks for "
                            f"({reason}): download or quantize them again") from None  # fmt: skip

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """A decoder layer with its weights, which go when the context does, whoever still knows the layer."""
        layer = self._filled_layer(index)
        try:
            yield layer
        finally:
            size = sum(tensor.nbytes for tensor in layer.parameters())
            layer.to_empty(device="meta")
            if size > TRIMMED:
                heap.trim()

    def _filled_layer(self, index: int) -> nn.Module:
        """Unpacked once."""
        prefix = f"{self.layer_prefix(index)}."
        if self._unpacked and index in self._unpacked:
            layer, stored = self._unpacked[index]
            self._assign(layer, stored, prefix)
            return layer.requires_grad_(False)
        layer = self._fill(copy.deepcopy(self._layers[index]), prefix)
        if self._unpacked:
            self._unpacked.keep(index, layer)
        return layer

    def begin(self, inputs: ModelInputs, past: Past) -> Flow:
        """Embeddings, soft tokens in place, by transformers' own forward."""
        from transformers.cache_utils import KVSharingDict

        given = past.extend(inputs.input_ids)
        hidden = self.stem.model(**tensors_of(inputs, self.dtype), **given, use_cache=False).last_hidden_state
        rotate = self.decoder.rotary_emb
        masks = given["attention_mask"]
        kinds = set(self.decoder.config.layer_types)  # of a model of one layer, fewer than the masks are made for
        rotations = {kind: rotate(hidden, given["position_ids"], kind) for kind in kinds}
        return Flow(hidden, past, KVSharingDict(None), masks, rotations)

    def normed(self, hidden: Tensor) -> Tensor:
        """[..., width] after the last layer -> what enters the head."""
        return self._norm(hidden)

    def logits(self, hidden: Tensor, block: int | None) -> NDArray[np.float32]:
        """[n, width] after the last layer -> [n, vocabulary]; `block` is the head's in `Blocks`, 0 if it has none."""
        hidden = self.normed(hidden)
        hidden = hidden if block == 0 else round_inputs(hidden, block)
        name = self._head
        logits = scratch(len(hidden), self.config.get_text_config().vocab_size)
        for number, weight in enumerate(self.tensors.rows(name, HEAD_ROWS)):
            part = nn.functional.linear(hidden, weight.to(self.dtype))
            columns = slice(number * HEAD_ROWS, number * HEAD_ROWS + len(weight))
            logits[:, columns] = self.soft_cap(part).float().numpy()
        return logits

    @property
    def _head(self) -> str:
        """The head's weight, or the embedding's that is tied to it.

        Raises:
            UserError: it is packed, which only sources have that were quantized elsewhere.
        """
        if (name := f"{HEAD}.weight") in self.tensors:
            return name
        if not self.config.tie_word_embeddings:
            raise UserError(f"{self.tensors.folder}: its head is packed, which the streamed reference does not read: "
                            "choose --reference whole or none")  # fmt: skip
        return self.embedding

    def soft_cap(self, logits: Tensor) -> Tensor:
        """As the forward of transformers' model does."""
        cap = self.config.get_text_config().final_logit_softcapping
        return torch.tanh(logits / cap) * cap if cap is not None else logits


class MappedEmbedding(nn.Module):
    """The decoder's own embedding, which scales, on a table in a file: what is looked up takes memory, and no more."""

    def __init__(self, table: Tensor, scale: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.table, self.dtype = table, dtype
        self.scale = torch.tensor(scale).to(dtype)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids].to(self.dtype) * self.scale


def _without_weights(checkpoint: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """transformers' model of tensors without values, made for packed weights if the checkpoint has some; and what
    unpacks those, if any.
    """
    from transformers.quantizers.auto import get_hf_quantizer

    quantizer, config, _ = get_hf_quantizer(read_config(checkpoint), None, None, None, {})
    with torch.device("meta"), redirect_stderr(StringIO()):  # progress bars
        model = new_model(config)
        if quantizer:
            quantizer.preprocess_model(model, dtype=dtype)
    return model.eval(), quantizer


def dequantize(module: nn.Module, quantizer: Any) -> None:
    """Of all packed linears in a module, as `load_model` does of the whole model."""
    from compressed_tensors.compressors import decompress_module

    for part in list(module.modules()):
        decompress_module(part, quantizer.compressor.force_compression_format)
