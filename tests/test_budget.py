"""Sensitivity against transformers' whole model with tensors rounded; budgets against all combinations of schemes."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from typer.testing import CliRunner

from export.__main__ import app
from export.calibration import sensitivity
from export.calibration.budget import Budget, Step, choose, read_budget, trade_off
from export.calibration.corpus import open_corpus
from export.calibration.gptq import factorize, round_rows
from export.calibration.rounding import IN_LAYER, of_tied_head
from export.calibration.sensitivity import ALONE, POSITIONS, SCHEMES, Sensitivity, measure_sensitivity, rounded
from export.config import read_model
from export.models import EMBEDDED
from export.quantize import quantize
from export.recipes import RECIPES
from export.schemes import dequantize_codes
from export.sources import open_source
from runtime.errors import UserError
from runtime.metrics import kl_divergence
from runtime.sessions.base import ModelInputs
from runtime.sessions.reference import load_model
from runtime.sessions.streamed import HEAD

TINY = EMBEDDED["tiny"]
EMBEDDING = "model.language_model.embed_tokens.weight"


@pytest.fixture(scope="module")
def text() -> ModelInputs:
    """Of the default set; longer than what is compared at once."""
    source = open_source(TINY)
    return ModelInputs(open_corpus(None).sequences(read_model(source.config), TINY)[0].input_ids[: 2 * POSITIONS])


@pytest.fixture(scope="module")
def found(text: ModelInputs) -> dict[str, Sensitivity]:
    """While later layers make up for nothing, as in a model that is not calibrated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "SHARE", 0.0)
        return {tensor.name: tensor for tensor in measure_sensitivity(TINY, [text], [text])}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_model(TINY)


@pytest.fixture(scope="module")
def compensated(model: nn.Module, text: ModelInputs) -> dict[str, Tensor]:
    """All linears as GPTQ rounds them for what enters them in transformers' whole model, by names of weights."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    seen: dict[str, Tensor] = {}
    hooks = [module.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[0][0]}))
             for name, module in linears.items()]  # fmt: skip
    logits(model, text)
    for hook in hooks:
        hook.remove()

    def rounded_linear(name: str) -> Tensor:
        moments = seen[name].T @ seen[name]
        factor = factorize(of_tied_head(moments) if name == HEAD else moments, ALONE)
        return dequantize_codes(*round_rows(model.get_parameter(f"{name}.weight").data, factor, ALONE))

    return {
        f"{name}.weight": rounded_linear(name) for name in seen if IN_LAYER.search(f"{name}.weight") or name == HEAD
    }


def cost(model: nn.Module, text: ModelInputs, changed: dict[str, Tensor]) -> float:
    """Nats that other values of some weights cost, by transformers' whole model; a tied one is untied meanwhile."""
    wanted, kept = logits(model, text), {name: model.get_parameter(name) for name in changed}
    for name, values in changed.items():
        _set(model, name, nn.Parameter(values, requires_grad=False))
    kl = float(kl_divergence(wanted, logits(model, text)).mean())
    for name, weight in kept.items():
        _set(model, name, weight)
    return kl


def _set(model: nn.Module, name: str, weight: nn.Parameter) -> None:
    module, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(module), attribute, weight)


def logits(model: nn.Module, text: ModelInputs) -> np.ndarray:
    return model(input_ids=torch.from_numpy(text.input_ids)[None]).logits[0].numpy()


@pytest.mark.parametrize(("branch", "linears"), [("self_attn", 4), ("mlp", 3)])
def test_a_branch_costs_what_it_costs_the_whole_model(
    found: dict[str, Sensitivity], model: nn.Module, text: ModelInputs, compensated: dict[str, Tensor], branch: str,
    linears: int,
) -> None:  # fmt: skip
    names = [name for name in compensated if f".layers.3.{branch}." in name]
    assert len(names) == linears
    shared = sum(found[name].kl["text"] for name in names)
    assert shared == pytest.approx(cost(model, text, {name: compensated[name] for name in names}), rel=0.02)
    plain = {name: rounded(model.get_parameter(name).data, ALONE) for name in names}
    assert cost(model, text, plain) > 1.1 * shared, "control: plain rounding costs more"


def test_what_can_be_told_from_the_output_is_made_up_for_by_half() -> None:
    """An error that is linear in the output, and one that is noise."""
    generator = torch.Generator().manual_seed(0)
    right = torch.randn(1, 4000, 32, generator=generator) * torch.linspace(0.1, 10, 4000)[:, None]
    linear = right @ (torch.eye(32) + 0.01 * torch.randn(32, 32, generator=generator))
    noise = right + 0.01 * torch.randn(right.shape, generator=generator) * right.norm(dim=-1, keepdim=True) / 32**0.5

    def left(found: Tensor) -> float:
        made = sensitivity._made_up_for([found], sensitivity._learn([right], [found]))[0]
        return float((made - right).norm() / (found - right).norm())

    assert left(linear) == pytest.approx(1 - sensitivity.SHARE, abs=0.02)
    assert left(noise) == pytest.approx(1, abs=0.02)


def test_the_embedding_costs_what_lookup_and_head_cost_the_whole_model(
    found: dict[str, Sensitivity], model: nn.Module, text: ModelInputs, compensated: dict[str, Tensor]
) -> None:
    """The lookup as plain rounding has it, by as much more as the head's codes are farther off."""
    table, head = model.get_parameter(EMBEDDING).data, compensated[f"{HEAD}.weight"]
    plain = rounded(table, ALONE)
    farther = float((head - table).square().sum() / (plain - table).square().sum())
    lookup = cost(model, text, {EMBEDDING: plain})
    wanted = farther * lookup + cost(model, text, {f"{HEAD}.weight": head})
    assert found[EMBEDDING].kl == {"text": pytest.approx(wanted, rel=0.05)}
    assert wanted > 1.2 * lookup, "control: the head costs something"


def test_a_tensor_costs_about_its_share_of_the_layer(
    found: dict[str, Sensitivity], model: nn.Module, text: ModelInputs, compensated: dict[str, Tensor]
) -> None:
    """Shares are of the layer's output, a stand-in for the model's: tensors of several layers, in the same order."""
    names = [name for name in found if re.search(r"layers\.(1|9)\.", name)]
    alone = [cost(model, text, {name: compensated[name]}) for name in names]
    shared = [found[name].kl["text"] for name in names]
    ratios = np.array(shared) / alone
    assert ratios.min() > 0.5 and ratios.max() < 2
    assert np.corrcoef(np.log(alone), np.log(shared))[0, 1] > 0.9
    assert np.corrcoef(np.log(alone), np.log(shared[::-1]))[0, 1] < 0.5, "control: other tensors' shares"


@st.composite
def tensor(draw: st.DrawFn) -> Sensitivity:
    at_int4 = draw(st.floats(1e-3, 1))
    in_64 = draw(st.floats(1.02, 1.5))
    losses = [in_64 * draw(st.floats(1.02, 1.5)), in_64, 1.0, draw(st.floats(1e-4, 0.2))]
    kl = {"text": draw(st.floats(1e-5, 1))}
    return Sensitivity(
        name=str(draw(st.integers())),
        weights=draw(st.integers(1, 50)) * 1024,
        kl=kl,
        losses=[at_int4 * loss for loss in losses],
    )


@given(st.lists(tensor(), min_size=1, max_size=4))
def test_no_combination_is_better_at_its_bits(tensors: list[Sensitivity]) -> None:
    columns = [1024] * len(tensors)
    curve = trade_off(tensors, columns)
    totals = []
    for combination in itertools.product(SCHEMES, repeat=len(tensors)):
        bits = sum(one.weights * (scheme.bits + 16 / (scheme.group or 1024))
                   for one, scheme in zip(tensors, combination, strict=True))  # fmt: skip
        totals.append((bits, sum(map(Sensitivity.predicted, tensors, combination))))
    for step in curve:
        assert step.kl <= min(kl for bits, kl in totals if bits <= step.bits + 1e-6) * (1 + 1e-6) + 1e-12
    worst = Step(-1, SCHEMES[0], curve[-1].bits, curve[0].kl)
    assert worst.kl > curve[-1].kl, "control: something is gained"


@given(st.lists(tensor(), min_size=1, max_size=6, unique_by=lambda one: one.name), st.floats(4.125, 8.1))
def test_budget_is_kept(tensors: list[Sensitivity], bits: float) -> None:
    weights = sum(one.weights for one in tensors)
    schemes = choose(tensors, trade_off(tensors, [1024] * len(tensors)), bits * weights)
    by_name = {one.name: one for one in tensors}
    spent = sum(by_name[name].weights * (scheme.bits + 16 / (scheme.group or 1024)) for name, scheme in schemes.items())
    assert spent <= bits * weights + 1e-6 and len(schemes) == len(tensors)


def test_checkpoint_of_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest budget and a larger one: bits come to what was asked for, schemes differ from weight to weight."""
    monkeypatch.setattr("export.calibration.corpus.PIECES", 2)
    monkeypatch.setattr("export.calibration.prepare.PROBE_LENGTH", 64)
    record = quantize(open_source(TINY), RECIPES["auto"], "tiny", tmp_path / "out", budget=Budget(bits=5.0))
    quantized = [tensor for tensor in record.tensors if tensor.scales_sha256]
    weights = sum(np.prod(tensor.shape) for tensor in quantized)
    bits = sum(np.prod(some.shape) * (int(some.dtype[3:]) + 16 / (some.group or some.shape[1])) for some in quantized)
    assert 4.7 < bits / weights <= 5.0
    assert len({(tensor.dtype, tensor.group) for tensor in quantized}) == len(SCHEMES)
    assert set(record.sensitivity[0].kl) == {"text", "image", "audio"}
    assert load_model(tmp_path / "out")


def test_read_budget() -> None:
    assert read_budget("4.5bits") == Budget(bits=4.5)
    assert read_budget("6.2 GB") == Budget(bytes=6.2e9)
    assert read_budget("6.2GB").bits_for(weights=10**9, others=2 * 10**8) == pytest.approx(48e9)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--recipe", "auto", "--budget", "small"], "no budget 'small': write it as 4.5bits"),
        (["--recipe", "int4", "--budget", "5bits"], "recipe int4 has no budget: leave BUDGET out"),
    ],
)
def test_bad_budgets_are_told(tmp_path: Path, arguments: list[str], told: str) -> None:
    places = ["--build", str(tmp_path / "build"), "--dist", str(tmp_path / "dist"), "--target", "desktop"]
    result = CliRunner().invoke(app, [*arguments, *places])
    assert result.exit_code == 2 and told in " ".join(result.stderr.split())


def test_budget_below_the_least() -> None:
    tensors = [Sensitivity(name="a", weights=1024, kl={"text": 1.0}, losses=[2.0, 1.5, 1.0, 0.1])]
    with pytest.raises(UserError, match=r"comes to 3\.00 bits per quantized weight, the least is 4\.12: raise BUDGET"):
        choose(tensors, trade_off(tensors, [1024]), 3 * 1024)
