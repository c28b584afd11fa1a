"""Calibrated quantization: against GPTQ as its paper has it, against plain rounding, interrupted, on other folders."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.calibration import gptq, statistics, streamed
from export.calibration.corpus import Corpus, open_corpus
from export.calibration.gptq import DAMPING, correct, factorize, round_rows
from export.calibration.sensitivity import measure_sensitivity
from export.calibration.statistics import Inputs, Moments, input_to, watched
from export.checkpoint import CheckpointWeights, QuantizationRecord
from export.models import EMBEDDED
from export.quantize import quantize
from export.recipes import RECIPES
from export.schemes import INT4, INT4_128, INT8, Scheme, dequantize, dequantize_codes, quantize_rows
from export.sources import open_source
from runtime.errors import UserError
from runtime.sessions.base import ModelInputs
from runtime.sessions.reference import load_model

TINY = EMBEDDED["tiny"]
PROJECTION = "model.language_model.layers.{}.mlp.{}_proj.weight"


def correlated(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight [rows, columns] and inputs that share a few directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(columns // 4, columns, generator=generator)
    spread = 0.1 + torch.rand(columns, generator=generator)
    inputs = torch.randn(2048, columns // 4, generator=generator) @ directions
    inputs += torch.randn(2048, columns, generator=generator) * spread
    return torch.randn(rows, columns, generator=generator) * 0.02, inputs


def loss(weight: Tensor, rounded: Tensor, hessian: Tensor) -> float:
    """Squared differences of the outputs."""
    difference = (rounded - weight).double()
    return float(((difference @ hessian.double()) * difference).sum())


# GPTQ

SCHEMES = INT4, INT4_128, INT8


def gptq_of_the_paper(weight: Tensor, hessian: Tensor, scales: Tensor, order: Tensor, scheme: Scheme) -> Tensor:
    """Algorithm 1 of arXiv:2210.17323 for given scales [rows, columns]: every column, in order, updates all that follow
    by the Cholesky factor of the inverse Hessian. In fp64, without blocks."""
    weight, scales = weight[:, order].double(), scales[:, order].double()
    damped = hessian[order][:, order].double()
    damped += torch.eye(len(damped)) * DAMPING * hessian.diagonal().mean()
    inverse = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    rounded = torch.zeros_like(weight)
    for k in range(weight.shape[1]):
        code = (weight[:, k] / scales[:, k]).round().clamp(scheme.lowest, scheme.highest)
        rounded[:, k] = code * scales[:, k]
        error = (weight[:, k] - rounded[:, k]) / inverse[k, k]
        weight[:, k:] -= error[:, None] * inverse[k, k:]
    found = torch.empty_like(rounded)
    found[:, order] = rounded
    return found.float()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_codes_are_those_of_the_paper(scheme: Scheme) -> None:
    weight, inputs = correlated(24, 256)
    hessian = inputs.T @ inputs
    factor = factorize(hessian.clone(), scheme)
    codes, scales = round_rows(weight, factor, scheme)
    by_column = scales.repeat_interleave(scheme.group or 256, 1)
    wanted = gptq_of_the_paper(weight, hessian, by_column, factor.order.flip(0), scheme)
    same = (dequantize_codes(codes, scales) - wanted).abs() < 1e-6
    assert same.all(1).float().mean() > 0.9, "but for rows in which fp32 rounds some half the other way"
    plainly = (weight / by_column).round().clamp(scheme.lowest, scheme.highest) * by_column
    assert not (plainly == wanted).all(1).any(), "control: the paper's codes are not those of plain rounding"


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_loses_less_than_plain_rounding(scheme: Scheme) -> None:
    weight, inputs = correlated(24, 256)
    hessian = inputs.T @ inputs
    compensated = dequantize_codes(*round_rows(weight, factorize(hessian.clone(), scheme), scheme))
    plain, weighted = (quantize_rows(weight, scheme, some) for some in (None, hessian.diagonal().contiguous()))
    by_rounding = [loss(weight, dequantize(q.packed, q.scales, scheme), hessian) for q in (plain, weighted)]
    assert loss(weight, compensated, hessian) < 0.5 * min(by_rounding)
    turned = hessian.roll(1, 0).roll(1, 1)
    misled = dequantize_codes(*round_rows(weight, factorize(turned, scheme), scheme))
    assert loss(weight, misled, hessian) > loss(weight, compensated, hessian) * 2, "control: inputs of other columns"


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_scales_have_no_more_digits_than_all_formats_hold(scheme: Scheme) -> None:
    weight, inputs = correlated(24, 256)
    scales = round_rows(weight, factorize(inputs.T @ inputs, scheme), scheme)[1].double()
    digits = torch.frexp(scales)[0] * 2**scheme.scale_digits
    assert (digits == digits.round()).all() and (digits / 2 != (digits / 2).round()).any(), "and use them all"


def test_scales_are_weighted_by_the_inputs() -> None:
    weight, inputs = correlated(64, 128)
    importance = (inputs * torch.linspace(0.01, 3, 128) ** 2).square().mean(0)

    def weighted_loss(factors: Tensor | None) -> float:
        found = quantize_rows(weight, INT4, factors)
        return float(((dequantize(found.packed, found.scales, INT4) - weight).square() * importance).sum())

    assert weighted_loss(importance) < weighted_loss(None) < weighted_loss(importance.flip(0))
    assert quantize_rows(weight, INT4, torch.ones(128)).error == quantize_rows(weight, INT4).error


def test_inputs_that_never_vary() -> None:
    """A Hessian of low rank, and one of nothing at all."""
    weight, inputs = correlated(8, 64)
    for hessian in (inputs[:3].T @ inputs[:3], torch.zeros(64, 64)):
        codes, scales = round_rows(weight, factorize(hessian, INT4), INT4)
        assert torch.isfinite(dequantize_codes(codes, scales)).all() and codes.any()


# What linears before it lost


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_correction_is_least_squares(monkeypatch: pytest.MonkeyPatch, scheme: Scheme) -> None:
    """Against torch's solver, on inputs that are off by a tenth; half of it is half the way."""
    weight, source = correlated(24, 256)
    inputs = source + 0.1 * source @ torch.randn(256, 256, generator=torch.Generator().manual_seed(1)) / 16
    factor = factorize(inputs.T @ inputs, scheme, damping=1e-7)
    pull = weight @ ((source - inputs).T @ inputs)
    halfway = correct(weight, pull, factor)
    monkeypatch.setattr(gptq, "SHARE", 1.0)
    found, wanted = correct(weight, pull, factor), torch.linalg.lstsq(inputs, source @ weight.T).solution.T
    assert (found - wanted).norm() < 0.01 * (wanted - weight).norm()
    assert torch.allclose(halfway, (weight + found) / 2, atol=1e-6)
    assert torch.equal(correct(weight, torch.zeros_like(pull), factor), weight), "control: nothing was lost"


def test_what_fp32_takes_for_indefinite_is_damped_more() -> None:
    """As L L^T tells, in fp64: of inputs in fewer directions than there are columns, of none, and off by rounding."""
    few = torch.randn(3, 64)
    off = torch.eye(64) - 1.05 / 64  # its least eigenvalue is -0.05, its diagonal about 1
    for hessian, damping in ((few.T @ few, DAMPING), (torch.zeros(64, 64), DAMPING), (off, 10 * DAMPING)):
        factor, diagonal = factorize(hessian.clone(), INT4), hessian.diagonal().double()
        lower = factor.lower.double() * factor.importance.double().sqrt()
        wanted = hessian.double() + torch.eye(64) * damping * (diagonal.mean() or 1)
        assert torch.allclose(lower @ lower.T, wanted[factor.order][:, factor.order], rtol=1e-4, atol=1e-4)
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(off.double() + torch.eye(64) * DAMPING)  # control: a first try is not enough


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38], ids=str)
@pytest.mark.parametrize("place", [(5, 5), (5, 4)])
def test_inputs_without_end_are_told(value: float, place: tuple[int, int]) -> None:
    """No damping makes them positive. The last value is finite, and sums of it are not."""
    hessian = 1e38 * torch.eye(32) if value == 3e38 else torch.eye(32)
    assert torch.isfinite(factorize(torch.eye(32), INT4).importance).all(), "control"
    hessian[place] = hessian[place[::-1]] = value
    with pytest.raises(UserError, match="is NaN or infinity, or too large to be squared: the checkpoint is damaged"):
        factorize(hessian, INT4)


def test_inputs_of_linears_in_a_forward() -> None:
    """All of them, or those of one, behind which nothing runs."""
    first, second = torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)
    layer, rows = torch.nn.Sequential(torch.nn.Sequential(first, second)), torch.randn(1, 5, 4)
    with torch.no_grad(), watched(layer, ["0.0", "0.1"], partial(Inputs, 10)) as kept:
        layer(rows), layer(rows * 2)
    assert torch.equal(kept["0.0"].rows, torch.cat([rows[0], rows[0] * 2]))
    assert torch.equal(kept["0.1"].rows[:5], first(rows)[0])
    second.register_forward_hook(lambda *_: pytest.fail("it ran"))
    for _ in range(2):
        assert torch.equal(input_to(second, lambda: layer(rows)), first(rows)[0])
    with pytest.raises(pytest.fail.Exception):
        layer(rows)


@pytest.mark.parametrize("block", [3, 8, 12, 100])
def test_moments_of_wide_inputs(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Half of the products are taken, the others mirrored."""
    monkeypatch.setattr(statistics, "BLOCK", block)
    moments, rows = Moments(12, whole=True), torch.randn(2, 50, 12)
    for some in rows:
        moments.add(some)
    flat = rows.flatten(0, 1)
    assert torch.allclose(moments.sums, flat.T @ flat, atol=1e-4)
    assert torch.allclose(moments.importance, flat.square().mean(0), atol=1e-6)


@pytest.mark.parametrize("outputs", [[2, 1], [8, 5]])
def test_what_linears_lost(outputs: list[int]) -> None:
    """W (X* - X)^T X, where linears of one input have fewer outputs together than inputs, and where they have more."""
    layer = torch.nn.ModuleDict({name: torch.nn.Linear(6, size) for name, size in zip("ab", outputs, strict=True)})
    inputs, source = torch.randn(2, 30, 6), torch.randn(60, 6)
    flows: Any = [SimpleNamespace(after=lambda layer, _, rows=rows: layer["a"](rows[None])) for rows in inputs]
    gathered = streamed._Layer(layer, 0, "", RECIPES["int4-gptq"], Path(), 0, lambda _: None)
    with torch.no_grad():
        moments, pulls = gathered._gather(["a", "b"], source, flows)
        rows = inputs.flatten(0, 1)
        for name, pull in pulls.items():
            assert torch.allclose(pull, gathered._weight(name) @ (source - rows).T @ rows, atol=1e-4)
    assert torch.allclose(moments.sums, rows.T @ rows, atol=1e-4)


def test_later_layers_make_up_for_earlier_ones(
    tmp_path: Path, sequences: list[ModelInputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs of the head in the source, and in checkpoints whose linears were told of what those before them lost."""
    wanted = np.concatenate([hidden(load_model(TINY), some) for some in sequences])

    def error(share: float) -> float:
        monkeypatch.setattr(gptq, "SHARE", share)
        run(tmp_path / str(share))
        model = load_model(tmp_path / str(share))
        return float(np.square(np.concatenate([hidden(model, some) for some in sequences]) - wanted).mean())

    assert error(0.5) < 0.97 * error(0.0)


# The checkpoint


@pytest.fixture(autouse=True)
def few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.calibration.corpus.PIECES", 4)
    monkeypatch.setattr("export.calibration.corpus.LENGTH", 256)


def run(out: Path, recipe: str = "int4-gptq", calibration: Path | None = None) -> QuantizationRecord:
    return quantize(open_source(TINY), RECIPES[recipe], "tiny", out, calibration)


@pytest.fixture(scope="module")
def sequences() -> list[ModelInputs]:
    """Some of what the model was calibrated on."""
    from export.config import read_model

    return open_corpus(None).sequences(read_model(open_source(TINY).config), TINY)[:4]


@pytest.mark.parametrize("recipe", ["int4-gptq", "int4-g128-gptq"])
def test_layers_put_out_less_error(tmp_path: Path, sequences: list[ModelInputs], recipe: str) -> None:
    """Inputs of the last layers, gathered by transformers' whole model, in the source and in each checkpoint."""
    plain = "int4-g128" if "g128" in recipe else "int4"
    run(tmp_path / "plain", plain), run(tmp_path / "calibrated", recipe)
    wanted, by_plain, calibrated = (
        np.concatenate([hidden(load_model(folder), some) for some in sequences])
        for folder in (TINY, tmp_path / "plain", tmp_path / "calibrated")
    )
    share = np.square(calibrated - wanted).sum() / np.square(by_plain - wanted).sum()
    assert share < 0.97


def hidden(model: Any, inputs: ModelInputs) -> np.ndarray:
    ids = torch.from_numpy(inputs.input_ids)[None]
    return model.model.language_model(input_ids=ids).last_hidden_state[0].numpy()


def test_same_seed_same_codes(tmp_path: Path) -> None:
    first, second = run(tmp_path / "first"), run(tmp_path / "second")
    assert first.tensors == second.tensors
    assert not list((tmp_path / "first").glob(".calibrated*")), "what only the work needed goes"


def test_another_text_other_codes(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("Nothing but this sentence, over and over again. " * 200)
    first, second = run(tmp_path / "first"), run(tmp_path / "second", calibration=tmp_path / "texts")
    assert first.tensors != second.tensors
    assert first.plan["calibration"] != second.plan["calibration"]
    weights = CheckpointWeights(tmp_path / "second")
    assert weights.packed(PROJECTION.format(3, "up")) is not None


def test_goes_on_at_the_layer_it_was_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path / "whole")
    visited: list[int] = []
    load = streamed.StreamedModel.layer

    @contextmanager
    def counted(self: Any, index: int) -> Iterator[Any]:
        visited.append(index)
        if visited == list(range(8)):
            raise KeyboardInterrupt
        with load(self, index) as layer:
            yield layer

    monkeypatch.setattr(streamed.StreamedModel, "layer", counted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out")
    kept = {path.name for path in (tmp_path / ".out.partial" / ".calibrated").iterdir()}
    assert kept == {f"layer-{index:05}.safetensors" for index in range(7)} | {"flows-00006.safetensors"}
    assert run(tmp_path / "out").tensors == whole.tensors
    assert visited == [*range(8), *range(7, 12)]


def test_groups_of_128_as_wide_as_a_row(tmp_path: Path) -> None:
    """Rows of the tiny's 128 inputs are one group, and stay int4 in groups to all who read them."""
    record = run(tmp_path / "out", "int4-g128")
    packed = CheckpointWeights(tmp_path / "out").packed(PROJECTION.format(0, "up"))
    assert packed is not None and packed.scheme == INT4_128
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] == 128
    stored = load_file(next((tmp_path / "out").glob("model-*.safetensors")))
    assert stored["model.language_model.layers.0.mlp.down_proj.weight_scale"].shape == (128, 2)
    assert record.recipe.bits_per_weight < 7


# Bad input


def test_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no \.txt or \.md file: name another folder with --calibration"):
        run(tmp_path / "out", calibration=tmp_path)
    assert not (tmp_path / "out").exists()


def test_too_little_text(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Short.")
    with pytest.raises(UserError, match="holds less than 256 tokens of text"):
        run(tmp_path / "out", calibration=tmp_path)


def test_text_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Käse".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8"):
        run(tmp_path / "out", calibration=tmp_path)


@pytest.mark.parametrize("part, named", [
    ("layers.2.input_layernorm", r"layers\.2\.self_attn\.q_proj is fed NaN or infinity"),
    ("norm", "the output projection is fed NaN or infinity"),
])  # fmt: skip
@pytest.mark.parametrize("work", ["sensitivity", "int4-gptq", "int4-weighted"])
def test_activations_without_end_are_named(
    checkpoint_copy: Path, sequences: list[ModelInputs], tmp_path: Path, work: str, part: str, named: str
) -> None:
    weights = load_file(checkpoint_copy / "model.safetensors")
    weights[f"model.language_model.{part}.weight"][3] = float("inf")
    save_file(weights, checkpoint_copy / "model.safetensors")

    short = [ModelInputs(sequences[0].input_ids[:32])]

    def calibrate(folder: Path) -> None:
        if work == "sensitivity":
            measure_sensitivity(folder, short, short)
        else:
            streamed.calibrate(open_source(folder), RECIPES[work], short, tmp_path / folder.name)

    with pytest.raises(UserError, match=named):
        calibrate(checkpoint_copy)
    calibrate(TINY)  # control: the same, but for that value


def test_default_set_is_not_what_models_are_judged_on() -> None:
    judged = (Path("runtime") / "evaluation" / "text.txt").read_text()
    corpus: Corpus = open_corpus(None)
    for path in corpus.texts:
        words = path.read_text().split()
        phrases = {" ".join(words[at : at + 8]) for at in range(len(words) - 8)}
        found = judged.split()
        assert not phrases & {" ".join(found[at : at + 8]) for at in range(len(found) - 8)}
