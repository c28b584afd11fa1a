"""Weights that are on a grid already: found again, kept, and told from ordinary ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from export.grid import GROUP, ON_GRID, Fit, find_grid, keep_grid, share_on_grid
from export.schemes import INT4, INT8, dequantize, quantize_rows, unpack

EXPONENTS = st.integers(-10, 3)


def lies_on_grid(samples: list[Tensor]) -> bool:
    """As exports ask."""
    return share_on_grid(samples) > ON_GRID


def codes(seed: int, rows: int = 64, lowest: int = -8) -> Tensor:
    """Every group reaches from -8, or from -7, to 7."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(lowest, 8, (rows, GROUP), generator=generator)
    found[:, 0], found[:, 1] = lowest, 7
    return found


def scales(seed: int, exponent: int, digits: int, rows: int = 64) -> Tensor:
    """[rows, 1] of so many significant bits."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(2 ** (digits - 1), 2**digits, (rows, 1), generator=generator)
    return whole * 2.0 ** (exponent - digits)


@given(st.integers(0, 2**32), EXPONENTS)
@settings(max_examples=25, deadline=None)
def test_products_that_bf16_holds_come_back_to_the_bit(seed: int, exponent: int) -> None:
    weights = codes(seed) * scales(seed, exponent, digits=5)
    assert torch.equal(weights, weights.bfloat16().float())
    kept = keep_grid(weights, 0, INT4)
    assert torch.equal(dequantize(kept.packed, kept.scales, INT4), weights)
    assert kept.fits[Fit.EXACT] == len(weights) and kept.error == 0


@given(st.integers(0, 2**32), EXPONENTS)
@settings(max_examples=25, deadline=None)
def test_products_that_were_rounded_to_bf16_keep_codes_and_scales(seed: int, exponent: int) -> None:
    wanted, steps = codes(seed), scales(seed, exponent, digits=8)
    weights = (wanted * steps).bfloat16().float()
    kept = keep_grid(weights, 0, INT4)
    assert torch.equal(unpack(kept.packed, INT4), wanted.to(torch.int8))
    found = dequantize(kept.packed, kept.scales, INT4)
    close = kept.fits[Fit.EXACT] + kept.fits[Fit.BF16]
    assert close + kept.fits[Fit.SCALE] == len(weights) and close > 0.8 * len(weights)
    assert (found.bfloat16() == weights).all(1).sum() == close
    assert ((found - weights).abs() <= 2**-8 * weights.abs()).all()


def test_control_one_value_beside_the_grid_is_seen() -> None:
    weights = codes(0) * scales(0, -3, digits=5)
    weights[7, 5] += 0.4 * scales(0, -3, digits=5)[7, 0]
    kept = keep_grid(weights, 0, INT4)
    assert kept.fits[Fit.NONE] == 1 and kept.error > 0
    assert torch.equal(dequantize(kept.packed, kept.scales, INT4)[8:], weights[8:])


def test_negative_scales_are_counted_and_never_worse_than_the_search() -> None:
    """A largest value of eight steps above zero."""
    weights = -codes(1) * scales(1, -3, digits=5)
    kept = keep_grid(weights, 0, INT4)
    assert kept.fits[Fit.UNFIT] == len(weights)
    assert (kept.scales > 0).all() and 0 < kept.error <= quantize_rows(weights, INT4).error


def test_scales_below_fp16s_normal_numbers_are_counted() -> None:
    kept = keep_grid(codes(2) * scales(2, -15, digits=5), 0, INT4)
    assert kept.fits[Fit.UNFIT] == 64 and (kept.scales >= 2**-14).all()


def test_zeros_are_kept() -> None:
    kept = keep_grid(torch.zeros(4, GROUP), 0, INT4)
    assert kept.fits[Fit.EXACT] == 4 and not dequantize(kept.packed, kept.scales, INT4).any()


def test_zeros_are_no_sign_of_training() -> None:
    ordinary = torch.zeros(64, 4 * GROUP)
    assert not lies_on_grid([ordinary])
    ordinary[0] = torch.randn(4 * GROUP, generator=torch.Generator().manual_seed(0))
    assert not lies_on_grid([ordinary])
    ordinary[0, :GROUP] = (codes(4) * scales(4, -3, digits=8)).flatten()[:GROUP]
    ordinary[0, GROUP:] = 0
    assert lies_on_grid([ordinary]), "control: they do not hide it either"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_on_no_grid(value: float) -> None:
    weights = codes(3) * scales(3, -3, digits=5)
    weights[0, 3] = value
    assert find_grid(weights.numpy())[2][0] == Fit.NONE


def test_ordinary_weights_are_on_none() -> None:
    ordinary = torch.randn(64, 4 * GROUP, generator=torch.Generator().manual_seed(0)).bfloat16()
    trained = (codes(4) * scales(4, -3, digits=8)).bfloat16()
    assert lies_on_grid([trained, trained]) and not lies_on_grid([ordinary]) and not lies_on_grid([ordinary, trained])
    assert torch.equal(keep_grid(ordinary.float(), 0, INT4).packed, quantize_rows(ordinary.float(), INT4).packed)


def test_other_schemes_are_rounded_as_usual() -> None:
    weights = codes(5) * scales(5, -3, digits=5)
    assert torch.equal(keep_grid(weights, 0, INT8).packed, quantize_rows(weights, INT8).packed)


def test_llama_cpps_grid_is_found() -> None:
    """Its own quantizer's codes, where its scale is positive."""
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType.Q4_0
    weights = torch.randn(64, 4 * GROUP, generator=torch.Generator().manual_seed(0))
    blocks = torch.from_numpy(gguf.quantize(weights.numpy(), kind)).reshape(-1, 18)  # fp16 scale, 16 bytes of codes
    values = torch.from_numpy(gguf.dequantize(blocks.reshape(64, -1).numpy(), kind)).reshape(64, -1)
    positive = blocks[:, :2].contiguous().view(torch.float16)[:, 0] > 0
    wanted = torch.cat([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1).to(torch.int8) - 8
    kept = keep_grid(values, 0, INT4)
    assert lies_on_grid([values]) and kept.fits[Fit.NONE] == 0
    assert kept.fits[Fit.UNFIT] == (~positive).sum()
    assert torch.equal(unpack(kept.packed, INT4).reshape(-1, GROUP)[positive], wanted[positive])
