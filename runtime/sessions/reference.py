"""The reference: transformers' own model in fp32, from a source checkpoint or a quantized one alike."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.errors import UserError
from runtime.sessions.base import Logits, ModelInputs
from runtime.torchvision_shim import allow_torchvision

Blocks = Mapping[str, int | None]
Scales = Mapping[int, tuple[float, float]]  # of int8 keys and values, by layer
SMALL = 10**8  # parameters
SHARE_OF_MEMORY = 0.7  # of what is free, for weights: loading and logits take some too
IMAGE_KIND, VIDEO_KIND = 1, 2  # in mm_token_type_ids


class ReferenceSession:
    """One sequence in transformers' eager model; `variant` shares its weights.

    Three options show what an engine's arithmetic costs by itself:
    `blocks` rounds what enters each quantized linear to int8, as ONNX Runtime's MatMulNBits does at accuracy level 4,
    or, without a size, as XNNPACK does;
    `kv_scales` rounds keys and values to int8 as they enter the cache;
    `half_cache` rounds them to fp16, as Core ML's states do.
    """

    name = "reference"

    def __init__(
        self, model: Any, blocks: Blocks | None = None, kv_scales: Scales | None = None, half_cache: bool = False
    ) -> None:
        """
        Args:
            model: from `load_model`.
            blocks: inputs that share a scale, by linear module; None: a whole row does.
            kv_scales: step of int8 keys and values, by layer.
            half_cache: keys and values are fp16.
        """
        self.model = model
        self.blocks = blocks or {}
        self.kv_scales = kv_scales
        self.half_cache = half_cache
        self.reset()

    @classmethod
    def open(cls, checkpoint: Path, dtype: torch.dtype = torch.float32) -> "ReferenceSession":
        """
        Args:
            dtype: of weights and activations.

        Raises:
            UserError: no checkpoint there that transformers opens.
        """
        return cls(load_model(checkpoint, dtype))

    def variant(
        self, blocks: Blocks | None = None, kv_scales: Scales | None = None, half_cache: bool = False
    ) -> "ReferenceSession":
        """The same weights with other arithmetic."""
        return ReferenceSession(self.model, blocks, kv_scales, half_cache)

    @property
    def position(self) -> int:
        return len(self._ids)

    def reset(self) -> None:
        from transformers import DynamicCache

        self._ids = np.zeros(0, np.int64)
        self._cache = DynamicCache(config=self.model.config)
        if self.kv_scales:
            for index, layer in enumerate(self._cache.layers):
                _round_cache(layer, *(partial(to_int8_steps, scale=scale) for scale in self.kv_scales[index]))
        elif self.half_cache:
            for layer in self._cache.layers:
                _round_cache(layer, to_half, to_half)

    def prefill(self, inputs: ModelInputs) -> Logits:
        return self._run(inputs, 1)[-1]

    def decode(self, token: int) -> Logits:
        return self.prefill(ModelInputs(np.array([token], np.int64)))

    def score(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """Appends positions like `prefill`; returns the logits after each of them, [positions, vocabulary]."""
        return self._run(inputs, 0)

    @torch.inference_mode()
    def _run(self, inputs: ModelInputs, wanted: int) -> NDArray[np.float32]:
        tensors = {name: self._tensor(array)[None if name == "input_ids" else slice(None)]
                   for name, array in inputs.arrays().items()}  # fmt: skip
        start = self.position
        self._ids = np.concatenate([self._ids, inputs.input_ids])
        with enough_threads(self.model), int8_activations(self.model, self.blocks):
            output = self.model(
                **tensors, attention_mask=self._masks(len(inputs.input_ids)), past_key_values=self._cache,
                position_ids=torch.arange(start, self.position)[None], logits_to_keep=wanted, use_cache=True,
            )  # fmt: skip
        return output.logits[0].float().numpy()

    def _tensor(self, array: NDArray) -> Tensor:
        """Floats in the model's dtype."""
        tensor = torch.from_numpy(np.array(array))
        return tensor.to(self.model.dtype) if tensor.is_floating_point() else tensor

    def _masks(self, count: int) -> dict[str, Tensor]:
        """Those of generate(): image blocks see all of themselves in sliding layers only.

        forward(mm_token_type_ids=...) would open them in full layers too, which the model was not made for.
        """
        config = self.model.config
        kinds = IMAGE_KIND * (self._ids == config.image_token_id) + VIDEO_KIND * (self._ids == config.video_token_id)
        return self.model.create_masks_for_generate(
            config, torch.empty(1, count, 1), None, self._cache,
            torch.arange(self.position - count, self.position)[None],
            mm_token_type_ids=torch.from_numpy(kinds)[None],  # of the whole sequence: masks look them up by position
        )  # fmt: skip


def memory_shortage(checkpoint: Path) -> str | None:
    """Why the fp32 model does not fit this machine's free memory, or None."""
    needed, free = 4 * count_weights(checkpoint), psutil.virtual_memory().available
    if needed < SHARE_OF_MEMORY * free:
        return None
    return f"the fp32 reference takes {needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are free"


def count_weights(checkpoint: Path) -> int:
    """Of a checkpoint's model, as its config has it; a weight that is tied to another counts once."""
    allow_torchvision()
    from transformers import AutoConfig, Gemma4UnifiedForConditionalGeneration

    with torch.device("meta"):
        model = Gemma4UnifiedForConditionalGeneration(AutoConfig.from_pretrained(checkpoint))
    return sum(weight.numel() for weight in model.parameters())


def load_model(checkpoint: Path, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' model with eager attention; packed weights are dequantized.

    Raises:
        UserError: no checkpoint there that transformers opens.
    """
    allow_torchvision()
    from transformers import Gemma4UnifiedForConditionalGeneration

    try:
        with redirect_stderr(StringIO()):  # progress bars of two libraries
            model = Gemma4UnifiedForConditionalGeneration.from_pretrained(
                checkpoint, dtype=dtype, attn_implementation="eager"
            )
            _dequantize(model)
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: transformers does not open it ({str(error).splitlines()[0]})") from None
    return model.eval().requires_grad_(False)


def _dequantize(model: Any) -> None:
    """As a first forward would. Codes times scales are exact then: `dequantize=True` would round them to bfloat16."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.compressor.decompress_model(model)


@contextmanager
def enough_threads(model: Any) -> Iterator[None]:
    """While it lasts, torch runs a small model on one thread, where handing work over costs more than the work."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1 if model.num_parameters() < SMALL else usual)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


# Int8 activations


@contextmanager
def int8_activations(model: nn.Module, blocks: Blocks) -> Iterator[None]:
    """While it lasts, what enters the linears named in `blocks` is rounded first."""
    with ExitStack() as stack:
        for name, size in blocks.items():
            hook = model.get_submodule(name).register_forward_pre_hook(
                lambda module, inputs, size=size: (round_to_int8(inputs[0], size) if size else round_rows(inputs[0]),)
            )
            stack.callback(hook.remove)
        yield


def round_to_int8(x: Tensor, block: int) -> Tensor:
    """[..., width] rounded per row and block of inputs, as MLAS does on x86 (MlasQ80BlkQuantRow).

    The scale is the block's largest magnitude / 127; codes are round(x * 127 / largest), halves to even.
    """
    width = x.shape[-1]
    blocks = nn.functional.pad(x, (0, -width % block)).unflatten(-1, (-1, block))
    largest = blocks.abs().amax(-1, keepdim=True)
    codes = (blocks * torch.where(largest > 0, 127 / largest, 0)).round()
    return (codes * (largest / 127)).flatten(-2)[..., :width]


def round_rows(x: Tensor) -> Tensor:
    """[..., width] rounded per row to 256 steps from its least to its largest value, zero among them.

    XNNPACK's qd8: scale = (largest - least) / 255, and the code of zero is the nearest to -128 - least / scale.
    """
    least, largest = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = torch.where(largest > least, (largest - least) / 255, 1)
    zero = (-128 - least / scale).round().clamp(-128, 127)
    return ((x / scale + zero).round().clamp(-128, 127) - zero) * scale


# Rounded keys and values

Round = Callable[[Tensor], Tensor]


def _round_cache(layer: Any, round_keys: Round, round_values: Round) -> None:
    """Makes the cache layer round keys and values as they come in."""
    update = layer.update

    def rounding_update(keys: Tensor, values: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return update(round_keys(keys), round_values(values), *arguments, **options)

    layer.update = rounding_update


def to_int8_steps(x: Tensor, scale: float) -> Tensor:
    """clamp(round(x / scale), -128, 127) * scale, ONNX Runtime's GroupQueryAttention with PER_TENSOR scales."""
    return (x / scale).round().clamp(-128, 127) * scale


def to_half(x: Tensor) -> Tensor:
    """The nearest fp16, in the dtype of x."""
    return x.half().to(x.dtype)
