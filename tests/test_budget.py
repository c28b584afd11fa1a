"""Sensitivity against transformers' whole model with tensors rounded; budgets against all combinations of schemes."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from export.__main__ import app
from export.calibration.budget import Budget, Step, choose, read_budget, trade_off
from export.calibration.corpus import open_corpus
from export.calibration.sensitivity import ALONE, POSITIONS, SCHEMES, Sensitivity, measure_sensitivity, rounded
from export.config import read_model
from export.models import EMBEDDED
from export.quantize import quantize
from export.recipes import RECIPES
from export.sources import open_source
from runtime.errors import UserError
from runtime.metrics import kl_divergence
from runtime.sessions.base import ModelInputs
from runtime.sessions.reference import load_model

TINY = EMBEDDED["tiny"]
EMBEDDING = "model.language_model.embed_tokens.weight"


@pytest.fixture(scope="module")
def text() -> ModelInputs:
    """Of the default set; longer than what is compared at once."""
    source = open_source(TINY)
    return ModelInputs(open_corpus(None).sequences(read_model(source.config), TINY)[0].input_ids[: 2 * POSITIONS])


@pytest.fixture(scope="module")
def found(text: ModelInputs) -> dict[str, Sensitivity]:
    return {tensor.name: tensor for tensor in measure_sensitivity(TINY, [text], [text])}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_model(TINY)


def cost(model: nn.Module, text: ModelInputs, *names: str) -> float:
    """Nats, by transformers' whole model."""
    wanted = logits(model, text)
    kept = {name: model.get_parameter(name).clone() for name in names}
    for name, weight in kept.items():
        model.get_parameter(name).copy_(rounded(weight, ALONE))
    kl = float(kl_divergence(wanted, logits(model, text)).mean())
    for name, weight in kept.items():
        model.get_parameter(name).copy_(weight)
    return kl


def logits(model: nn.Module, text: ModelInputs) -> np.ndarray:
    return model(input_ids=torch.from_numpy(text.input_ids)[None]).logits[0].numpy()


def test_a_layer_costs_what_it_costs_the_whole_model(
    found: dict[str, Sensitivity], model: nn.Module, text: ModelInputs
) -> None:
    names = [name for name in found if ".layers.3." in name]
    assert len(names) == 7
    shared = sum(found[name].kl["text"] for name in names)
    assert shared == pytest.approx(cost(model, text, *names), rel=0.02)
    assert shared > 2 * found[names[-1]].kl["text"], "control: not all is in one of them"


def test_the_embedding_costs_what_it_costs_the_whole_model(
    found: dict[str, Sensitivity], model: nn.Module, text: ModelInputs
) -> None:
    assert found[EMBEDDING].kl == {"text": pytest.approx(cost(model, text, EMBEDDING), rel=0.02)}


def test_a_tensor_costs_about_its_share_of_the_layer(
    found: dict[str, Sensitivity], model: nn.Module, text: ModelInputs
) -> None:
    """Shares are of the layer's output, a stand-in for the model's: tensors of several layers, in the same order."""
    names = [name for name in found if re.search(r"layers\.(1|9)\.", name)]
    alone = [cost(model, text, name) for name in names]
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
