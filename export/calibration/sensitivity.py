"""Which weights matter: the KL divergence when some alone are quantized, all others being the source's.

It is measured for each branch of a layer, attention and feed-forward, and for both uses of the embedding. Each layer is
loaded once. All variants of the model pass through it: those that an earlier layer made different, and the two that it
makes itself. So there is none for each tensor. Those of a branch share its KL by the squares of what each alone changes
in the layer's output, over the squares of that output, as norms behind it see no more. Not those of a layer: attention
and feed-forward change other columns of it, and which of them matter is not to be seen there. (Gemma 3 270M's first
feed-forward part costs 0.004 nats, and would be thought to cost 0.03.)

Variants are rounded in one scheme, their errors compensated, and read a few sequences. What other schemes cost follows
from the squares of what a tensor puts out, E H E^T of `gptq`: KL grows with them.

Calibration lets later layers make up for what earlier ones lost, as far as it can be told from what they put out. That
is taken off a variant where its layer ends, by linear regression: else int8 would seem to gain what is gained anyway.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.calibration.gptq import DAMPING, SHARE, Factor, factorize, round_rows
from export.calibration.rounding import of_tied_head
from export.calibration.statistics import Moments, input_of, watched
from export.calibration.streamed import HEAD, ROWS, begin, head_moments
from export.pool import in_order, worker_pool
from export.schemes import INT4, INT4_64, INT4_128, INT8, Scheme, dequantize, dequantize_codes, quantize_rows
from runtime import sensitivity
from runtime.progress import progress
from runtime.scratch import scratch
from runtime.sessions.base import ModelInputs
from runtime.sessions.reference import enough_threads
from runtime.sessions.streamed import HEAD_ROWS, Flow, StreamedModel

SCHEMES = (INT4_128, INT4_64, INT4, INT8)  # from small to large
ALONE = INT4  # the scheme whose divergence is measured
SAMPLED = 256  # rows of a weight that are rounded in all of them
FITTED = 8  # texts that what is made up for is learnt from: the last ones, while probes are the first
POSITIONS = 128  # whose logits are held at once


class Sensitivity(sensitivity.Sensitivity):
    """With what schemes leave of it."""

    losses: list[float]  # for each of SCHEMES, compensated: squared error of what it puts out, over that in ALONE

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
    """The model with a layer's weights quantized, or its embedding, where it is looked up or in the head."""

    flows: list[Flow]
    weights: list[_Weight] = field(default_factory=list)  # of a layer
    head: "_Head | None" = None  # if it is not the source's


@dataclass(frozen=True)
class _Head:
    """The embedding as it is multiplied by, in ALONE."""

    table: Tensor  # fp32 [vocabulary, width]
    losses: list[float]  # see `Sensitivity`
    looked_up: list[float]  # for each of SCHEMES: squares of its own error, over those of plain ALONE


def measure_sensitivity(
    checkpoint: Path, sequences: Sequence[ModelInputs], probes: Sequence[ModelInputs]
) -> list[Sensitivity]:
    """Of all tensors of the decoder's layers, and of its embedding, which comes first.

    Args:
        sequences: what inputs of the tensors are learnt from, as in calibration.
        probes: what divergence is measured on: at each position of a text, and where an answer about media begins.

    Raises:
        UserError: no checkpoint there that transformers opens, or NaN or infinity comes up in it.
    """
    model = StreamedModel(checkpoint, torch.float32, lambda text: None)
    kinds = [_modality(inputs) for inputs in probes]
    steps = sum(range(3, 2 * model.depth + 2, 2)) + 2 * model.depth + 2  # variants through layers, then the head
    with torch.no_grad(), enough_threads(model.stem), progress("sensitivity", steps, "steps") as advance:
        source, seen = _Variant(begin(model, probes)), begin(model, sequences)
        texts = [flow for flow, inputs in zip(seen, sequences, strict=True) if _modality(inputs) == "text"][-FITTED:]
        with _rounded_table(model):
            lookup = _Variant(begin(model, probes))
        variants = [lookup]
        for index in range(model.depth):
            with model.layer(index) as layer:
                for flow in (flow for variant in variants for flow in variant.flows):
                    flow.hidden = flow.after(layer, index)
                variants += _vary(layer, index, model.layer_prefix(index), source.flows, kinds, seen, texts)
            advance(len(variants))
        variants.append(_at_the_head(model, source.flows, seen))
        costs = _divergences(model, source, variants, kinds)
        advance(len(variants))
    embedding = _describe_embedding(model, variants[-1], costs[0], costs[-1])
    found = zip(variants[1:-1], costs[1:-1], strict=True)
    return [embedding, *(weight.at(kl) for variant, kl in found for weight in variant.weights)]


def _vary(
    layer: nn.Module, index: int, prefix: str, flows: Sequence[Flow], kinds: Sequence[str], seen: Sequence[Flow],
    texts: Sequence[Flow],
) -> Iterator[_Variant]:  # fmt: skip
    """Of both branches, behind the layer. So are the source's flows then, and the sequences that are seen.

    Args:
        kinds: modalities of the flows.
        texts: of `seen`, what `_learn` learns from.
    """
    weights = {name: module.weight for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    fitted = [replace(flow) for flow in texts]
    codes, losses = _round(layer, index, prefix, weights, seen)
    right, behind = _after(layer, index, fitted), _after(layer, index, flows)

    def rounded_alone(names: Iterable[str]) -> list[Tensor]:
        """What the layer puts out then, less what later layers can tell from that, and make up for."""
        with _exchanged([(weights[name], codes[name]) for name in names]):
            found = _after(layer, index, flows)
            return _made_up_for(found, _learn(right, _after(layer, index, fitted))) if fitted else found

    for branch in dict.fromkeys(map(_branch, weights)):
        names = [name for name in weights if _branch(name) == branch]
        shares = _shares({name: _change(rounded_alone([name]), behind, kinds) for name in names})
        made = [replace(flow, hidden=hidden) for flow, hidden in zip(flows, rounded_alone(names), strict=True)]
        yield _Variant(made, [_Weight(f"{prefix}.{name}.weight", weights[name].numel(), losses[name], shares[name])
                              for name in names])  # fmt: skip
    for flow, hidden in zip(flows, behind, strict=True):
        flow.hidden = hidden


def _branch(name: str) -> str:
    """What adds a linear's outputs to the layer's input: `self_attn` or `mlp`."""
    return name.split(".")[0]


def _learn(right: Sequence[Tensor], found: Sequence[Tensor]) -> Tensor:
    """[width, width], least squares of how far outputs are off, from the outputs; each position counts alike, as norms
    stand before whatever makes up for it. Damped as GPTQ is.

    Args:
        right, found: [1, T, width] each.
    """
    rows = torch.cat([*found], 1)[0]
    lost = rows - torch.cat([*right], 1)[0]
    sizes = rows.square().mean(-1, keepdim=True).sqrt()
    rows, lost = rows / sizes, lost / sizes
    moments = rows.T @ rows
    moments.diagonal().add_(DAMPING * moments.diagonal().mean())
    return torch.linalg.solve(moments, rows.T @ lost)


def _made_up_for(found: Sequence[Tensor], learnt: Tensor) -> list[Tensor]:
    """By half, as calibration does."""
    return [hidden - SHARE * (hidden @ learnt) for hidden in found]


def _after(layer: nn.Module, index: int, flows: Sequence[Flow]) -> list[Tensor]:
    return [flow.after(layer, index) for flow in flows]


@contextmanager
def _exchanged(pairs: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """While it lasts, the first of each pair has the values of the second."""
    kept = [(weight, weight.data) for weight, _ in pairs]
    for weight, values in pairs:
        weight.data = values
    yield
    for weight, values in kept:
        weight.data = values


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


def _round(
    layer: nn.Module, index: int, prefix: str, weights: Mapping[str, Tensor], seen: Sequence[Flow]
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """A layer's weights in ALONE, and what other schemes would leave, by name; brings the sequences through it."""
    with watched(layer, list(weights), partial(Moments, whole=True)) as moments:
        for flow in seen:
            flow.hidden = flow.after(layer, index)
    found: dict[str, Tensor] = {}
    losses: dict[str, list[float]] = {}
    for shared in list(moments):
        moments[shared].require_finite(f"{prefix}.{shared}")
        members = {name: weight for name, weight in weights.items() if input_of(name) == shared}
        hessian = moments.pop(shared).sums
        factor = factorize(hessian, ALONE)
        found |= {name: _compensated(weight, factor, ALONE) for name, weight in members.items()}
        errors = _errors({name: _sample(weight) for name, weight in members.items()}, hessian)
        losses |= {name: _losses(some, hessian) for name, some in errors.items()}
    return found, losses


def _compensated(weight: Tensor, factor: Factor, scheme: Scheme) -> Tensor:
    work = (lambda rows=rows: dequantize_codes(*round_rows(rows, factor, scheme)) for rows in weight.split(ROWS))
    with worker_pool() as pool:
        return torch.cat(list(in_order(pool, work)))


def _errors(rows: dict[str, Tensor], hessian: Tensor) -> dict[str, list[Tensor]]:
    """What each of SCHEMES leaves of weights with one input, compensated, by name."""
    errors: dict[str, list[Tensor]] = {name: [] for name in rows}
    for scheme in SCHEMES:
        factor = factorize(hessian, scheme)
        for name, some in rows.items():
            errors[name].append(dequantize_codes(*round_rows(some, factor, scheme)) - some)
    return errors


def _losses(errors: Sequence[Tensor], hessian: Tensor) -> list[float]:
    """Of one weight's; see `Sensitivity`."""
    left = [float(((error @ hessian) * error).sum()) for error in errors]
    alone = left[SCHEMES.index(ALONE)]
    return [one / alone if alone else 1.0 for one in left]


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


def _at_the_head(model: StreamedModel, flows: list[Flow], seen: Sequence[Flow]) -> _Variant:
    """Of flows behind the last layer."""
    name, moments = model.embedding, of_tied_head(head_moments(model, seen).sums)
    sample, factor = _sample(model.tensors[name]), factorize(moments, ALONE)
    table = torch.from_numpy(scratch(*model.tensors[name].shape))
    for found, rows in zip(table.split(HEAD_ROWS), model.tensors.rows(name, HEAD_ROWS), strict=True):
        found.copy_(_compensated(rows.float(), factor, ALONE))
    errors = _errors({HEAD: sample}, moments)[HEAD]
    plain = (rounded(sample, ALONE) - sample).square().sum()
    looked_up = [float(error.square().sum() / plain) for error in errors]
    return _Variant(flows, head=_Head(table, _losses(errors, moments), looked_up))


def _describe_embedding(
    model: StreamedModel, variant: _Variant, lookup: dict[str, float], head: dict[str, float]
) -> Sensitivity:
    """Both of its uses together, each measured by itself: the lookup plainly rounded."""
    assert variant.head
    at = SCHEMES.index(ALONE)
    looked_up, losses = variant.head.looked_up, variant.head.losses
    kl = {kind: lookup[kind] * looked_up[at] + head[kind] for kind in lookup}
    parts = [sum(lookup.values()) * first + sum(head.values()) * second
             for first, second in zip(looked_up, losses, strict=True)]  # fmt: skip
    shape = model.tensors[model.embedding].shape
    return Sensitivity(name=model.embedding, weights=shape.numel(), kl=kl, losses=[part / parts[at] for part in parts])


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
    table = variant.head.table.split(HEAD_ROWS) if variant.head else model.tensors.rows(model.embedding, HEAD_ROWS)
    return model.soft_cap(torch.cat([hidden @ rows.float().T for rows in table], 1)).log_softmax(-1)


def _divergence(wanted: Tensor, found: Tensor) -> NDArray[np.float32]:
    """KL at each position."""
    divergence: NDArray[np.float32] = (wanted.exp() * (wanted - found)).sum(-1).clamp(min=0).numpy()
    return divergence


def _modality(inputs: ModelInputs) -> str:
    return "image" if inputs.pixel_values is not None else "audio" if inputs.input_features is not None else "text"
