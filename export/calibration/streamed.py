"""Calibration of a checkpoint of any size: sequences pass through transformers' own layers, one of which is loaded.

Each layer sees what the quantized layers before it put out. Whatever a layer took is kept in a file of its own, and
so is what its sequences became, so that an interrupted run goes on at the layer it was in.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from export.calibration.gptq import Factor, factorize, round_rows
from export.calibration.statistics import Moments, input_of, watched
from export.pool import in_order, worker_pool
from export.recipes import Recipe
from export.schemes import Scheme, dequantize_codes, pack
from export.sources import Source
from runtime.errors import UserError
from runtime.progress import progress
from runtime.sessions.base import ModelInputs
from runtime.sessions.past import Past
from runtime.sessions.reference import enough_threads
from runtime.sessions.streamed import Flow, StreamedModel

ROWS = 512  # of a weight, rounded at once
HEAD = "head"  # file of what enters the output projection
CODES, SCALES, IMPORTANCE, MOMENTS = "codes", "scales", "importance", "moments"


def calibrate(source: Source, recipe: Recipe, sequences: Sequence[ModelInputs], folder: Path) -> None:
    """Files in `folder` for `export.calibration.rounding` to read; those of an interrupted run are not made again.

    Raises:
        UserError: a weight holds NaN or infinity.
    """
    folder.mkdir(exist_ok=True)
    model = StreamedModel(source.folder, torch.float32, lambda text: None)
    total = sum(stored.bytes for stored in source.tensors.values() if stored.name.startswith(f"{model.prefix}.layers."))
    with torch.no_grad(), enough_threads(model.stem), progress("calibrating", total) as advance:
        flows = [model.begin(inputs, Past(model.config)) for inputs in sequences]
        done = _resume(flows, folder)
        advance(done * (total // model.depth))
        for index in range(done, model.depth):
            with model.layer(index) as layer:
                _Layer(layer, index, model.layer_prefix(index), recipe, folder).calibrate(flows)
            _keep(flows, index, folder)
            advance(total // model.depth)
        _watch_head(model, flows, folder)


def layer_file(folder: Path, index: int) -> Path:
    return folder / f"layer-{index:05}.safetensors"


def _flow_file(folder: Path, index: int) -> Path:
    return folder / f"flows-{index:05}.safetensors"


def _resume(flows: Sequence[Flow], folder: Path) -> int:
    """Layers that are done."""
    kept = sorted(folder.glob("flows-*.safetensors"))
    if not kept:
        return 0
    for number, hidden in load_file(kept[-1]).items():
        flows[int(number)].hidden = hidden
    return int(kept[-1].stem.removeprefix("flows-")) + 1


def _keep(flows: Sequence[Flow], index: int, folder: Path) -> None:
    """Where the sequences are behind a layer."""
    _save({str(number): flow.hidden for number, flow in enumerate(flows)}, _flow_file(folder, index))
    _flow_file(folder, index - 1).unlink(missing_ok=True)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.rename(path)


def _watch_head(model: StreamedModel, flows: Sequence[Flow], folder: Path) -> None:
    """X^T X of what enters the output projection."""
    moments = Moments(flows[0].hidden.shape[-1], whole=True)
    for flow in flows:
        moments.add(model.normed(flow.hidden))
    _save({MOMENTS: moments.sums / moments.rows}, folder / f"{HEAD}.safetensors")


@dataclass
class _Layer:
    """One decoder layer with its weights."""

    layer: nn.Module
    index: int
    name: str  # prefix of its weights in the checkpoint
    recipe: Recipe
    folder: Path

    def calibrate(self, flows: Sequence[Flow]) -> None:
        """Writes the layer's file, and brings the sequences through it as it will be."""
        schemes = dict(self._schemes())
        compensates = self.recipe.method == "compensated"
        with watched(self.layer, list(schemes), compensates) as moments:
            outputs = [flow.after(self.layer, self.index) for flow in flows]
        for name, these in moments.items():
            if not torch.isfinite(these.importance).all():
                raise UserError(f"{self.name}.{name} is fed NaN or infinity: the checkpoint is damaged, "
                                "download it again")  # fmt: skip
        found = {f"{name}.{IMPORTANCE}": moments[input_of(name)].importance for name in schemes}
        if compensates:
            del outputs
            with worker_pool() as pool:
                found |= self._round(schemes, moments, pool)
            outputs = [flow.after(self.layer, self.index) for flow in flows]
        _save(found, layer_file(self.folder, self.index))
        for flow, hidden in zip(flows, outputs, strict=True):
            flow.hidden = hidden

    def _schemes(self) -> Iterator[tuple[str, Scheme]]:
        """Of the layer's linears that the recipe quantizes, by their names in the layer."""
        for name, module in self.layer.named_modules():
            scheme = self.recipe.scheme_of(f"{self.name}.{name}.weight")
            if isinstance(module, nn.Linear) and scheme:
                yield name, scheme

    def _round(self, schemes: dict[str, Scheme], moments: dict[str, Moments], pool: Executor) -> dict[str, Tensor]:
        """Codes and scales of linears; their weights become what these stand for."""
        found: dict[str, Tensor] = {}
        for shared, these in moments.items():
            members = [name for name in schemes if input_of(name) == shared]
            for scheme in dict.fromkeys(schemes[name] for name in members):
                factor = factorize(these.sums, scheme)
                for name in (name for name in members if schemes[name] == scheme):
                    found |= self._round_linear(name, scheme, factor, pool)
            these.sums = torch.zeros(0)
        return found

    def _round_linear(self, name: str, scheme: Scheme, factor: Factor, pool: Executor) -> dict[str, Tensor]:
        weight = self.layer.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        codes, scales = [], []
        work = (lambda rows=rows: (rows, *round_rows(rows, factor, scheme)) for rows in weight.split(ROWS))
        for rows, some_codes, some_scales in in_order(pool, work):
            rows.copy_(dequantize_codes(some_codes, some_scales))
            codes.append(pack(some_codes, scheme))
            scales.append(some_scales)
        return {f"{name}.{CODES}": torch.cat(codes), f"{name}.{SCALES}": torch.cat(scales)}
