"""The reference: transformers' own model in fp32, from a source checkpoint or a quantized one alike."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.architectures import model_class, new_model
from runtime.errors import UserError, first_line
from runtime.greedy import Greedy, generate
from runtime.manifest import Tokens
from runtime.scratch import scratch
from runtime.sessions.base import Logits, ModelInputs, Positions
from runtime.sessions.past import Past, Scales
from runtime.torchvision_shim import allow_torchvision

Blocks = Mapping[str, int | None]
SMALL = 10**8  # parameters
SHARE_OF_MEMORY = 0.7  # of what is free, for weights: loading and logits take some too


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
        return len(self.past.ids)

    def reset(self) -> None:
        self.past = Past(self.model.config, self.kv_scales, self.half_cache)

    def prefill(self, inputs: ModelInputs) -> Logits:
        return self._run(inputs, 1)[-1]

    def decode(self, token: int) -> Logits:
        return self.prefill(ModelInputs(np.array([token], np.int64)))

    def score(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """Appends positions like `prefill`; returns the logits after each of them, [positions, vocabulary]."""
        return self._run(inputs, 0)

    def read(self, sequences: Sequence[ModelInputs], wanted: Sequence[Positions]) -> NDArray[np.float32]:
        """See `Reference`."""
        logits = scratch(sum(map(len, wanted)), self.model.config.get_text_config().vocab_size)
        starts = np.cumsum([0, *map(len, wanted)])
        for start, inputs, positions in zip(starts, sequences, wanted, strict=False):
            self.reset()
            logits[start : start + len(positions)] = self._run(inputs, torch.as_tensor(np.asarray(positions)))
        return logits

    def generate(self, prompts: Sequence[ModelInputs], tokens: Tokens, steps: int) -> list[Greedy]:
        """See `Reference`."""
        return [generate(self, prompt, tokens, steps) for prompt in prompts]

    @torch.inference_mode()
    def _run(self, inputs: ModelInputs, wanted: int | Tensor) -> NDArray[np.float32]:
        """`wanted`: how many of the last positions, 0 for all; or which."""
        with enough_threads(self.model), int8_activations(self.model, self.blocks):
            output = self.model(
                **tensors_of(inputs, self.model.dtype), **self.past.extend(inputs.input_ids),
                past_key_values=self.past.cache, logits_to_keep=wanted, use_cache=True,
            )  # fmt: skip
        return output.logits[0].float().numpy()


def tensors_of(inputs: ModelInputs, dtype: torch.dtype) -> dict[str, Tensor]:
    """As transformers' forward takes them; floats in the model's dtype."""
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in inputs.arrays().items()}
    tensors["input_ids"] = tensors["input_ids"][None]
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def memory_shortage(checkpoint: Path) -> str | None:
    """Why the fp32 model does not fit this machine's free memory, or None.

    Raises:
        UserError: no checkpoint there.
    """
    needed, free = 4 * count_weights(checkpoint), psutil.virtual_memory().available
    if needed < SHARE_OF_MEMORY * free:
        return None
    return f"the fp32 reference takes {needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are free"


def count_weights(checkpoint: Path) -> int:
    """Of a checkpoint's model, as its config has it; a weight that is tied to another counts once.

    Raises:
        UserError: no checkpoint there.
    """
    config = read_config(checkpoint)
    with torch.device("meta"):
        model = new_model(config)
    return sum(weight.numel() for weight in model.parameters())


def read_config(checkpoint: Path) -> Any:
    """transformers' config of the model, with eager attention.

    Raises:
        UserError: no checkpoint there.
    """
    allow_torchvision()
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(checkpoint, attn_implementation="eager")
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: transformers does not open it ({first_line(error)})") from None


def load_model(checkpoint: Path, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' model with eager attention; packed weights are dequantized.

    Raises:
        UserError: no checkpoint there that transformers opens.
    """
    loaded = model_class(read_config(checkpoint))
    try:
        with redirect_stderr(StringIO()):  # progress bars of two libraries
            model = loaded.from_pretrained(checkpoint, dtype=dtype, attn_implementation="eager")
            _dequantize(model)
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: transformers does not open it ({first_line(error)})") from None
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
                lambda module, inputs, size=size: (round_inputs(inputs[0], size),)
            )
            stack.callback(hook.remove)
        yield


def round_inputs(x: Tensor, block: int | None) -> Tensor:
    """[..., width] as a linear of that size in `Blocks` would see it."""
    return round_to_int8(x, block) if block else round_rows(x)


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
