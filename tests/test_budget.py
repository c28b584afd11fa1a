"""Sensitivity against transformers' whole model with one group rounded; budgets against all combinations of schemes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from export.__main__ import app
from export.calibration.budget import Budget, Step, choose, read_budget, trade_off
from export.calibration.sensitivity import ALONE, POSITIONS, SCHEMES, Sensitivity, measure_sensitivity, rounded
from export.models import EMBEDDED
from export.quantize import quantize
from export.recipes import RECIPES
from export.sources import open_source
from runtime.errors import UserError
from runtime.metrics import kl_divergence
from runtime.sessions.base import ModelInputs
from runtime.sessions.reference import load_model

TINY = EMBEDDED["tiny"]
DOWN = "model.language_model.layers.3.mlp.down_proj.weight"
EMBEDDING = "model.language_model.embed_tokens.weight"


def test_sensitivity_is_that_of_the_whole_model() -> None:
    text = ModelInputs(np.random.default_rng(0).integers(20, 4000, 100))
    groups = {group.names[0]: group for group in measure_sensitivity(TINY, [text], [text])}
    assert len(groups) == 1 + 12 * 4
    model = load_model(TINY)
    wanted = last_logits(model, text)
    for name in (DOWN, EMBEDDING):
        weight = model.get_parameter(name)
        before = weight.clone()
        weight.copy_(rounded(weight, ALONE))
        kl = float(kl_divergence(wanted, last_logits(model, text)).mean())
        weight.copy_(before)
        assert groups[name].kl == {"text": pytest.approx(kl, rel=0.02)}
    assert groups[EMBEDDING].kl["text"] > 10 * groups[DOWN].kl["text"] > 0, "control: they differ"


def last_logits(model: torch.nn.Module, text: ModelInputs) -> np.ndarray:
    return model(input_ids=torch.from_numpy(text.input_ids)[None]).logits[0, -POSITIONS:].numpy()


@st.composite
def group_of(draw: st.DrawFn) -> Sensitivity:
    at_int4 = draw(st.floats(1e-3, 1))
    in_64 = draw(st.floats(1.02, 1.5))
    losses = [in_64 * draw(st.floats(1.02, 1.5)), in_64, 1.0, draw(st.floats(1e-4, 0.2))]
    kl = {"text": draw(st.floats(1e-5, 1))}
    return Sensitivity(
        names=[str(draw(st.integers()))],
        weights=draw(st.integers(1, 50)) * 1024,
        kl=kl,
        losses=[at_int4 * loss for loss in losses],
    )


@given(st.lists(group_of(), min_size=1, max_size=4))
def test_no_combination_is_better_at_its_bits(groups: list[Sensitivity]) -> None:
    columns = [1024] * len(groups)
    curve = trade_off(groups, columns)
    totals = []
    for combination in itertools.product(SCHEMES, repeat=len(groups)):
        bits = sum(group.weights * (scheme.bits + 16 / (scheme.group or 1024))
                   for group, scheme in zip(groups, combination, strict=True))  # fmt: skip
        totals.append((bits, sum(map(Sensitivity.predicted, groups, combination))))
    for step in curve:
        assert step.kl <= min(kl for bits, kl in totals if bits <= step.bits + 1e-6) * (1 + 1e-6) + 1e-12
    worst = Step(-1, SCHEMES[0], curve[-1].bits, curve[0].kl)
    assert worst.kl > curve[-1].kl, "control: something is gained"


@given(st.lists(group_of(), min_size=1, max_size=6, unique_by=lambda group: group.names[0]), st.floats(4.125, 8.1))
def test_budget_is_kept(groups: list[Sensitivity], bits: float) -> None:
    weights = sum(group.weights for group in groups)
    schemes = choose(groups, trade_off(groups, [1024] * len(groups)), bits * weights)
    by_name = {group.names[0]: group for group in groups}
    spent = sum(by_name[name].weights * (scheme.bits + 16 / (scheme.group or 1024)) for name, scheme in schemes.items())
    assert spent <= bits * weights + 1e-6 and len(schemes) == len(groups)


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
    groups = [Sensitivity(names=["a"], weights=1024, kl={"text": 1.0}, losses=[2.0, 1.5, 1.0, 0.1])]
    with pytest.raises(UserError, match=r"comes to 3\.00 bits per quantized weight, the least is 4\.12: raise BUDGET"):
        choose(groups, trade_off(groups, [1024]), 3 * 1024)
