"""Which weights matter: the KL divergence when some alone are quantized, all others being the source's.

It is measured for each layer, and for the embedding. Each layer is loaded once. All variants of the model pass through
it: those that an earlier layer made different, and the one that it makes itself. So there is one for a layer, not for
each of its tensors. Those share the layer's KL by the squares of what each alone changes in the layer's output, over
the squares of that output, as norms behind it see no more. On the embedded model these shares are within a fifth of
what each tensor costs alone, mostly (correlation of the logarithms 0.99), and take a seventh of the passes.

Variants are rounded plainly, in one scheme, and read a few sequences. What other schemes cost once their errors are
compensated follows from the squares of what a tensor puts out, E H E^T of `gptq`: KL grows with them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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

SCHEMES = (INT4_128, INT4_64, INT4, INT8)  # from small to large
ALONE = INT4  # the scheme whose divergence is measured, plainly rounded
SAMPLED = 256  # rows of a weight that are rounded in all of them
POSITIONS = 128  # whose logits are held at once


class Sensitivity(sensitivity.Sensitivity):
    """With what schemes leave of it."""

    losses: list[float]  # for each of SCHEMES, compensated: squared error of what it puts out, over that of the plain

    def predicted(self, scheme: Scheme) -> float:
        """Nats in a scheme, compensated: KL grows with the square of an error."""
        return self.divergence * self.losses[SCHEMES.index(scheme)]


@dataclass(frozen=True)
class _Weight:
    """That a variant has quantized."""

    name: str
    count: int  # of its elements
    losses: list[float]  # see `Sensitivity`
    shares: dict[str, float]  # by modality, of what the variant costs

    def at(self, kl: dict[str, float]) -> Sensitivity:
        """In a variant of such KL."""
        shared = {modality: share * kl[modality] for modality, share in self.shares.items()}
        return Sensitivity(name=self.name, weights=self.count, kl=shared, losses=self.losses)


@dataclass
class _Variant:
    """The model with a layer's weights quantized, or its embedding; with none, the source."""

    flows: list[Flow]
    weights: list[_Weight]


def measure_sensitivity(
    checkpoint: Path, sequences: Sequence[ModelInputs], probes: Sequence[ModelInputs]
) -> list[Sensitivity]:
    """Of all tensors of the decoder's layers, and of its embedding, which comes first.

    Args:
        sequences: what inputs of the tensors are learnt from, as in calibration.
        probes: what divergence is measured on: at each position of a text, and where an answer about media begins.

    Raises:
        UserError: no checkpoint there that transformers opens.
    """
    model = StreamedModel(checkpoint, torch.float32, lambda text: None)
    kinds = [_modality(inputs) for inputs in probes]
    steps = sum(range(2, model.depth + 2)) + model.depth + 1  # variants through each layer, then through the head
    with torch.no_grad(), enough_threads(model.stem), progress("sensitivity", steps, "steps") as advance:
        source, seen = _Variant(begin(model, probes), []), begin(model, sequences)
        with _rounded_table(model):
            embedding = _Variant(begin(model, probes), [])
        variants = [embedding]
        for index in range(model.depth):
            with model.layer(index) as layer:
                for flow in (flow for variant in variants for flow in variant.flows):
                    flow.hidden = flow.after(layer, index)
                variants.append(_vary(layer, index, model.layer_prefix(index), source.flows, kinds, seen))
            advance(len(variants))
        embedding.weights = [_describe_embedding(model, seen, kinds)]
        costs = _divergences(model, source, variants, kinds)
        advance(len(variants))
    return [weight.at(kl) for variant, kl in zip(variants, costs, strict=True) for weight in variant.weights]


def _vary(
    layer: nn.Module, index: int, prefix: str, flows: Sequence[Flow], kinds: Sequence[str], seen: Sequence[Flow]
) -> _Variant:
    """Behind the layer. So are the source's flows then, and the sequences that are seen.

    Args:
        kinds: modalities of the flows.
    """
    weights = {name: module.weight for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    losses = _losses_in(layer, index, weights, seen)
    behind, changes = _after(layer, index, flows), {}
    for name, weight in weights.items():
        with _quantized([weight]):
            changes[name] = _change(_after(layer, index, flows), behind, kinds)
    with _quantized(weights.values()):
        made = [replace(flow, hidden=hidden) for flow, hidden in zip(flows, _after(layer, index, flows), strict=True)]
    for flow, hidden in zip(flows, behind, strict=True):
        flow.hidden = hidden
    shares = _shares(changes)
    return _Variant(made, [_Weight(f"{prefix}.{name}.weight", weight.numel(), losses[name], shares[name])
                           for name, weight in weights.items()])  # fmt: skip


def _after(layer: nn.Module, index: int, flows: Sequence[Flow]) -> list[Tensor]:
    return [flow.after(layer, index) for flow in flows]


@contextmanager
def _quantized(weights: Iterable[Tensor]) -> Iterator[None]:
    """While it lasts."""
    kept = [(weight, weight.clone()) for weight in weights]
    for weight, before in kept:
        weight.copy_(rounded(before, ALONE))
    yield
    for weight, before in kept:
        weight.copy_(before)


def _change(found: Sequence[Tensor], wanted: Sequence[Tensor], kinds: Sequence[str]) -> dict[str, float]:
    """By modality: squares of what a layer puts out otherwise, over those of what it should, summed over positions."""
    sums = dict.fromkeys(kinds, 0.0)
    for kind, got, want in zip(kinds, found, wanted, strict=True):
        sums[kind] += float(((got - want).square().sum(-1) / want.square().sum(-1)).sum())
    return sums


def _shares(changes: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Of each name, by modality; equal ones where nothing changes."""
    totals = {kind: sum(found[kind] for found in changes.values()) for kind in next(iter(changes.values()))}
    return {name: {kind: change / totals[kind] if totals[kind] else 1 / len(changes) for kind, change in found.items()}
            for name, found in changes.items()}  # fmt: skip


def _sample(weight: Tensor) -> Tensor:
    """Some rows from everywhere."""
    return weight[:: max(1, len(weight) // SAMPLED)].float()


def _losses_in(
    layer: nn.Module, index: int, weights: Mapping[str, Tensor], seen: Sequence[Flow]
) -> dict[str, list[float]]:
    """Of a layer's weights, by name; brings the sequences through it."""
    with watched(layer, list(weights), partial(Moments, whole=True)) as moments:
        for flow in seen:
            flow.hidden = flow.after(layer, index)
    losses: dict[str, list[float]] = {}
    for shared in list(moments):
        rows = {name: _sample(weight) for name, weight in weights.items() if input_of(name) == shared}
        losses |= _losses(rows, moments.pop(shared).sums)
    return losses


def _losses(rows: dict[str, Tensor], hessian: Tensor) -> dict[str, list[float]]:
    """Of weights with one input, by name; see `Sensitivity`."""

    def loss(name: str, found: Tensor) -> float:
        error = found - rows[name]
        return float(((error @ hessian) * error).sum())

    plain = {name: loss(name, rounded(some, ALONE)) for name, some in rows.items()}
    losses: dict[str, list[float]] = {name: [] for name in rows}
    for scheme in SCHEMES:
        factor = factorize(hessian, scheme)
        for name, some in rows.items():
            left = loss(name, dequantize_codes(*round_rows(some, factor, scheme)))
            losses[name].append(left / plain[name] if plain[name] else 1.0)
    return losses


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


def _describe_embedding(model: StreamedModel, seen: Sequence[Flow], kinds: Sequence[str]) -> _Weight:
    """By what enters the head."""
    name, table = model.embedding, model.tensors[model.embedding]
    losses = _losses({name: _sample(table)}, of_tied_head(head_moments(model, seen).sums))
    return _Weight(name, table.numel(), losses[name], dict.fromkeys(kinds, 1.0))


# What variants cost


def _divergences(
    model: StreamedModel, source: _Variant, variants: Sequence[_Variant], kinds: Sequence[str]
) -> list[dict[str, float]]:
    """Mean KL of each variant, at the compared positions of each modality."""
    counts = [flow.hidden.shape[1] if kind == "text" else 1 for kind, flow in zip(kinds, source.flows, strict=True)]
    owners, found = np.repeat(kinds, counts), np.empty((len(variants), sum(counts)))
    for start in range(0, sum(counts), POSITIONS):
        some = slice(start, start + POSITIONS)
        wanted = _log_probabilities(model, source, counts, some)
        for row, variant in zip(found, variants, strict=True):
            row[some] = _divergence(wanted, _log_probabilities(model, variant, counts, some))
    return [{str(kind): float(row[owners == kind].mean()) for kind in np.unique(owners)} for row in found]


def _log_probabilities(model: StreamedModel, variant: _Variant, counts: Sequence[int], some: slice) -> Tensor:
    """[positions, vocabulary] at some of the last `counts` positions of all flows."""
    compared = torch.cat([flow.hidden[0, -count:] for flow, count in zip(variant.flows, counts, strict=True)])
    hidden = model.normed(compared[some])
    is_embedding = [weight.name for weight in variant.weights] == [model.embedding]
    parts = (rounded(rows.float(), ALONE) if is_embedding else rows.float()
             for rows in model.tensors.rows(model.embedding, HEAD_ROWS))  # fmt: skip
    return model.soft_cap(torch.cat([hidden @ part.T for part in parts], 1)).log_softmax(-1)


def _divergence(wanted: Tensor, found: Tensor) -> NDArray[np.float32]:
    """KL at each position."""
    divergence: NDArray[np.float32] = (wanted.exp() * (wanted - found)).sum(-1).clamp(min=0).numpy()
    return divergence


def _modality(inputs: ModelInputs) -> str:
    return "image" if inputs.pixel_values is not None else "audio" if inputs.input_features is not None else "text"
