"""Which weights matter: the KL divergence when a group of tensors alone is quantized, all others being the source's.

Each layer is loaded once. All variants of the model pass through it: those that an earlier layer made different, and
those that it makes itself, one for each group of its tensors. On average half as many as there are groups pass a layer.
So variants are rounded plainly, in one scheme, and read a few sequences. What other schemes cost once their errors are
compensated follows from the squares of what a tensor puts out, E H E^T of `gptq`: KL grows with them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.calibration.gptq import factorize, round_rows
from export.calibration.rounding import of_tied_head
from export.calibration.statistics import Moments, input_of, watched
from export.calibration.streamed import begin, head_moments
from export.schemes import INT4, INT4_64, INT4_128, INT8, Scheme, dequantize, dequantize_codes, quantize_rows
from runtime import sensitivity
from runtime.progress import progress
from runtime.sessions.base import ModelInputs
from runtime.sessions.reference import enough_threads
from runtime.sessions.streamed import HEAD_ROWS, Flow, StreamedModel

PARTS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
SCHEMES = (INT4_128, INT4_64, INT4, INT8)  # from small to large
ALONE = INT4  # the scheme whose divergence is measured, plainly rounded
SAMPLED = 256  # rows of a weight that are rounded in all of them
POSITIONS = 64  # of a text that are compared, the last ones ...
ABOUT_MEDIA = 8  # ... and of a prompt about an image or a clip: what lies before them is no text


class Sensitivity(sensitivity.Sensitivity):
    """With what schemes leave of it."""

    losses: list[float]  # for each of SCHEMES, compensated: squared error of what it puts out, over that of the plain

    def predicted(self, scheme: Scheme) -> float:
        """Nats in a scheme, compensated: KL grows with the square of an error."""
        return self.divergence * self.losses[SCHEMES.index(scheme)]


@dataclass
class _Variant:
    """The model with one group quantized; without a group, the source."""

    flows: list[Flow]
    found: Sensitivity | None


def measure_sensitivity(
    checkpoint: Path, sequences: Sequence[ModelInputs], probes: Sequence[ModelInputs]
) -> list[Sensitivity]:
    """Of all groups of the decoder's tensors, and of its embedding, in the order of the layers.

    Args:
        sequences: what inputs of the tensors are learnt from, as in calibration.
        probes: what divergence is measured on.

    Raises:
        UserError: no checkpoint there that transformers opens.
    """
    model = StreamedModel(checkpoint, torch.float32, lambda text: None)
    steps = model.depth + model.depth * len(PARTS) + 1  # layers, then groups and the embedding
    with torch.no_grad(), enough_threads(model.stem), progress("sensitivity", steps, "steps") as advance:
        source, seen = _Variant(begin(model, probes), None), begin(model, sequences)
        with _rounded_table(model):
            embedding = _Variant(begin(model, probes), None)
        variants = [embedding]
        for index in range(model.depth):
            with model.layer(index) as layer:
                made = list(_vary(layer, index, model.layer_prefix(index), source, seen))
                for variant in (*variants, source):
                    _through(layer, index, variant)
            variants += made
            advance(1)
        embedding.found = _describe_embedding(model, seen)
        modalities = [_modality(inputs) for inputs in probes]
        counts = [POSITIONS if modality == "text" else ABOUT_MEDIA for modality in modalities]
        wanted, owners = _log_probabilities(model, source, counts), np.repeat(modalities, counts)
        for variant in variants:
            assert variant.found is not None
            variant.found.kl.update(_divergences(wanted, _log_probabilities(model, variant, counts), owners))
            advance(1)
    return [variant.found for variant in variants if variant.found]


def _through(layer: nn.Module, index: int, variant: _Variant) -> None:
    for flow in variant.flows:
        flow.hidden = flow.after(layer, index)


def _vary(layer: nn.Module, index: int, prefix: str, source: _Variant, seen: Sequence[Flow]) -> Iterator[_Variant]:
    """A variant for each group of the layer's tensors, behind the layer; so are the sequences that are seen, then."""
    linears = [name for name, module in layer.named_modules() if isinstance(module, nn.Linear)]
    with watched(layer, linears, partial(Moments, whole=True)) as moments:
        for flow in seen:
            flow.hidden = flow.after(layer, index)
    for part in PARTS:
        members = [name for name in linears if name.rpartition(".")[2] in part]
        weights = {name: layer.get_submodule(name).weight.clone() for name in members}  # type: ignore[operator]
        found = _describe(prefix, weights, moments[input_of(members[0])])
        for name, weight in weights.items():
            layer.get_submodule(name).weight.copy_(rounded(weight, ALONE))  # type: ignore[operator]
        yield _Variant([replace(flow, hidden=flow.after(layer, index)) for flow in source.flows], found)
        for name, weight in weights.items():
            layer.get_submodule(name).weight.copy_(weight)  # type: ignore[operator]


def _describe(prefix: str, weights: dict[str, Tensor], moments: Moments) -> Sensitivity:
    """Of tensors with one input."""
    names = [f"{prefix}.{name}.weight" for name in weights]
    rows = torch.cat([_sample(weight) for weight in weights.values()])
    count = sum(map(Tensor.numel, weights.values()))
    return Sensitivity(names=names, weights=count, kl={}, losses=_losses(rows, moments.sums))


def _sample(weight: Tensor) -> Tensor:
    """Some rows from everywhere, as many of each tensor as its share of all."""
    return weight[:: max(1, len(weight) // SAMPLED)].float()


def _losses(rows: Tensor, hessian: Tensor) -> list[float]:
    def loss(found: Tensor) -> float:
        error = found - rows
        return float(((error @ hessian) * error).sum())

    compensated = (dequantize_codes(*round_rows(rows, factorize(hessian, scheme), scheme)) for scheme in SCHEMES)
    plain = loss(rounded(rows, ALONE))
    return [loss(found) / plain if plain else 1.0 for found in compensated]


def rounded(weight: Tensor, scheme: Scheme) -> Tensor:
    """fp32 [rows, columns] by plain rounding, dequantized."""
    found = quantize_rows(weight, scheme)
    return dequantize(found.packed, found.scales, scheme)


# The embedding


class _RoundedTable:
    """Rows of a table, rounded as they are looked up."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __getitem__(self, ids: Tensor) -> Tensor:
        rows = self.table[ids].float()
        return rounded(rows.reshape(-1, rows.shape[-1]), ALONE).view_as(rows)


@contextmanager
def _rounded_table(model: StreamedModel) -> Iterator[None]:
    """While it lasts, the model looks up rounded rows."""
    embedding = model.decoder.embed_tokens
    table = embedding.table
    embedding.table = _RoundedTable(table)
    yield
    embedding.table = table


def _describe_embedding(model: StreamedModel, seen: Sequence[Flow]) -> Sensitivity:
    """By what enters the head."""
    table = model.tensors[model.embedding]
    losses = _losses(_sample(table), of_tied_head(head_moments(model, seen).sums))
    return Sensitivity(names=[model.embedding], weights=table.numel(), kl={}, losses=losses)


def _log_probabilities(model: StreamedModel, variant: _Variant, counts: Sequence[int]) -> Tensor:
    """[positions of all sequences, vocabulary]"""
    hidden = model.normed(
        torch.cat([flow.hidden[0, -compared:] for flow, compared in zip(variant.flows, counts, strict=True)])
    )
    is_embedding = variant.found is not None and variant.found.names == [model.embedding]
    parts = (rounded(rows.float(), ALONE) if is_embedding else rows.float()
             for rows in model.tensors.rows(model.embedding, HEAD_ROWS))  # fmt: skip
    return model.soft_cap(torch.cat([hidden @ part.T for part in parts], 1)).log_softmax(-1)


def _modality(inputs: ModelInputs) -> str:
    return "image" if inputs.pixel_values is not None else "audio" if inputs.input_features is not None else "text"


def _divergences(wanted: Tensor, found: Tensor, owners: NDArray[np.str_]) -> dict[str, float]:
    """Mean KL of each modality's positions."""
    divergence = (wanted.exp() * (wanted - found)).sum(-1).clamp(min=0).numpy()
    return {str(modality): float(divergence[owners == modality].mean()) for modality in np.unique(owners)}
