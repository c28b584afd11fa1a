"""Calibration of a checkpoint of any size: sequences pass through transformers' own layers, one of which is loaded.

Each layer sees what the quantized layers before it put out. Where errors are compensated, so does each linear, in the
order in which they are run; beside it stands what the source's layers put out, from which its outputs shall differ
least. Whatever a layer took is kept in a file of its own, and so is what its sequences became, so that an interrupted
run goes on at the layer it was in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from export.calibration.gptq import Factor, correct, factorize, round_rows
from export.calibration.statistics import Inputs, Moments, input_of, input_to, watched
from export.pool import in_order, worker_pool
from export.recipes import Recipe
from export.schemes import Scheme, dequantize_codes, pack
from export.sources import Source
from runtime.errors import UserError, first_line
from runtime.progress import Advance, progress
from runtime.sessions.base import ModelInputs
from runtime.sessions.past import Past
from runtime.sessions.reference import enough_threads
from runtime.sessions.streamed import Flow, StreamedModel

ROWS = 512  # of a weight, rounded at once
HEAD = "head"  # file of what enters the output projection
CODES, SCALES, IMPORTANCE, MOMENTS = "codes", "scales", "importance", "moments"


@dataclass
class _Flows:
    """All sequences on their way through the layers."""

    quantized: list[Flow]
    source: list[Flow]  # through those of the source; none where nothing is compensated


def calibrate(source: Source, recipe: Recipe, sequences: Sequence[ModelInputs], folder: Path) -> None:
    """Files in `folder` for `export.calibration.rounding` to read; those of an interrupted run are not made again.

    Raises:
        UserError: a weight holds NaN or infinity, or the disk is full.
    """
    folder.mkdir(exist_ok=True)
    model = StreamedModel(source.folder, torch.float32, lambda text: None)
    total = sum(stored.bytes for stored in source.tensors.values() if stored.name.startswith(f"{model.prefix}.layers."))
    with torch.no_grad(), enough_threads(model.stem), progress("calibrating", total) as advance:
        flows = _Flows(begin(model, sequences), begin(model, sequences) if recipe.method == "compensated" else [])
        done = _resume(flows, folder)
        advance(done * (total // model.depth))
        for index in range(done, model.depth):
            with model.layer(index) as layer:
                named = model.layer_prefix(index)
                _Layer(layer, index, named, recipe, folder, total // model.depth, advance).calibrate(flows)
            _keep(flows, index, folder)
        moments = head_moments(model, flows.quantized)
        _save({MOMENTS: moments.sums / moments.rows}, folder / f"{HEAD}.safetensors")


def begin(model: StreamedModel, sequences: Sequence[ModelInputs]) -> list[Flow]:
    """Whole sequences before the first layer."""
    return [model.begin(inputs, Past(model.config)) for inputs in sequences]


def layer_file(folder: Path, index: int) -> Path:
    return folder / f"layer-{index:05}.safetensors"


def _flow_file(folder: Path, index: int) -> Path:
    return folder / f"flows-{index:05}.safetensors"


def _resume(flows: _Flows, folder: Path) -> int:
    """Layers that are done."""
    kept = sorted(folder.glob("flows-*.safetensors"))
    if not kept:
        return 0
    for name, hidden in load_file(kept[-1]).items():
        group, number = name.split(".")
        getattr(flows, group)[int(number)].hidden = hidden
    return int(kept[-1].stem.removeprefix("flows-")) + 1


def _keep(flows: _Flows, index: int, folder: Path) -> None:
    """Where the sequences are behind a layer."""
    groups = {"quantized": flows.quantized, "source": flows.source}
    hidden = {f"{group}.{number}": flow.hidden for group, some in groups.items() for number, flow in enumerate(some)}
    _save(hidden, _flow_file(folder, index))
    _flow_file(folder, index - 1).unlink(missing_ok=True)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    except SafetensorError as error:
        raise UserError(f"{path} cannot be written ({first_line(error)}): make room on its disk and run again, "
                        "it goes on from there") from None  # fmt: skip
    partial.rename(path)


def head_moments(model: StreamedModel, flows: Sequence[Flow]) -> Moments:
    """Of what enters the output projection, once the flows are behind the last layer.

    Raises:
        UserError: that is NaN or infinity.
    """
    moments = Moments(flows[0].hidden.shape[-1], whole=True)
    for flow in flows:
        moments.add(model.normed(flow.hidden))
    moments.require_finite("the output projection")
    return moments


@dataclass
class _Layer:
    """One decoder layer with its weights."""

    layer: nn.Module
    index: int
    name: str  # prefix of its weights in the checkpoint
    recipe: Recipe
    folder: Path
    bytes: int  # of its weights in the source
    advance: Advance  # as linears are rounded: a layer of the 12B takes a quarter of an hour

    def calibrate(self, flows: _Flows) -> None:
        """Writes the layer's file, and brings the sequences through it as it will be."""
        schemes = dict(self._schemes())
        if self.recipe.method == "compensated":
            wanted = self._through_source(schemes, flows.source)
            found = self._compensate(schemes, wanted, flows.quantized)
            outputs = [flow.after(self.layer, self.index) for flow in flows.quantized]
        else:
            with watched(self.layer, list(schemes), partial(Moments, whole=False)) as moments:
                outputs = [flow.after(self.layer, self.index) for flow in flows.quantized]
            for name, these in moments.items():
                these.require_finite(f"{self.name}.{name}")
            found = {f"{name}.{IMPORTANCE}": moments[input_of(name)].importance for name in schemes}
            self.advance(self.bytes)
        _save(found, layer_file(self.folder, self.index))
        for flow, hidden in zip(flows.quantized, outputs, strict=True):
            flow.hidden = hidden

    def _through_source(self, schemes: dict[str, Scheme], flows: Sequence[Flow]) -> dict[str, Inputs]:
        """What enters the linears while the layer is still the source's; brings the source's sequences through it."""
        positions = sum(flow.hidden.shape[1] for flow in flows)
        with watched(self.layer, list(schemes), partial(Inputs, positions)) as wanted:
            for flow in flows:
                flow.hidden = flow.after(self.layer, self.index)
        return wanted

    def _compensate(
        self, schemes: dict[str, Scheme], wanted: dict[str, Inputs], flows: Sequence[Flow]
    ) -> dict[str, Tensor]:
        """Codes and scales of linears; their weights become what these stand for, before the next ones are fed."""
        found: dict[str, Tensor] = {}
        weights = sum(self._weight(name).numel() for name in schemes)
        for shared in list(wanted):
            members = [name for name in schemes if input_of(name) == shared]
            moments, pulls = self._gather(members, wanted.pop(shared).rows, flows)
            for scheme in dict.fromkeys(schemes[name] for name in members):
                factor = factorize(moments.sums, scheme)
                for name in (name for name in members if schemes[name] == scheme):
                    target = correct(self._weight(name), pulls.pop(name), factor)
                    found |= self._round_linear(name, target, scheme, factor)
                    self.advance(self.bytes * target.numel() // weights)
        return found

    def _gather(
        self, members: Sequence[str], wanted: Tensor, flows: Sequence[Flow]
    ) -> tuple[Moments, dict[str, Tensor]]:
        """X^T X of the inputs X [rows, width] that linears will have, and W (X* - X)^T X of each, for the source's X*.

        That product is taken in the order that makes less of it: where there are fewer outputs than inputs, from W on.
        """
        weights = [self._weight(name) for name in members]
        module, at = self.layer.get_submodule(members[0]), 0
        moments = Moments(wanted.shape[1], whole=True)
        few = sum(map(len, weights)) < wanted.shape[1]
        drift = torch.zeros(sum(map(len, weights)) if few else wanted.shape[1], wanted.shape[1])
        for flow in flows:
            rows = input_to(module, partial(flow.after, self.layer, self.index))
            moments.add(rows)
            lost = wanted[at : at + len(rows)] - rows
            drift.addmm_((torch.cat([lost @ weight.T for weight in weights], 1) if few else lost).T, rows)
            at += len(rows)
        moments.require_finite(f"{self.name}.{members[0]}")
        pulls = drift.split([len(weight) for weight in weights]) if few else [weight @ drift for weight in weights]
        return moments, dict(zip(members, pulls, strict=True))

    def _weight(self, name: str) -> Tensor:
        weight = self.layer.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        return weight

    def _schemes(self) -> Iterator[tuple[str, Scheme]]:
        """Of the layer's linears that the recipe quantizes, by their names in the layer."""
        for name, module in self.layer.named_modules():
            scheme = self.recipe.scheme_of(f"{self.name}.{name}.weight")
            if isinstance(module, nn.Linear) and scheme:
                yield name, scheme

    def _round_linear(self, name: str, target: Tensor, scheme: Scheme, factor: Factor) -> dict[str, Tensor]:
        """The codes and scales that come closest to a target, [rows, columns]."""
        codes, scales = [], []
        work = (lambda rows=rows: round_rows(rows, factor, scheme) for rows in target.split(ROWS))
        with worker_pool() as pool:
            for rows, found in zip(self._weight(name).split(ROWS), in_order(pool, work), strict=True):
                rows.copy_(dequantize_codes(*found))
                codes.append(pack(found[0], scheme))
                scales.append(found[1])
        return {f"{name}.{CODES}": torch.cat(codes), f"{name}.{SCALES}": torch.cat(scales)}
