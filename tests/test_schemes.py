"""Packing and rounding, against compressed-tensors' own code and plain arithmetic."""

import math

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from hypothesis import given
from hypothesis import strategies as st

from export.rounding import RATIOS, SMALLEST_SCALE
from export.schemes import INT4, INT8, Scheme, dequantize, pack, quantize_rows, unpack

SCHEMES = [INT4, INT8, Scheme(4, 64), Scheme(8, 32)]
schemes = pytest.mark.parametrize("scheme", SCHEMES, ids=str)


@st.composite
def codes_of(draw: st.DrawFn) -> tuple[Scheme, torch.Tensor]:
    scheme = draw(st.sampled_from(SCHEMES))
    rows, words = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    seed = draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)
    shape = rows, words * 32 // scheme.bits
    return scheme, torch.randint(-scheme.offset, scheme.offset, shape, dtype=torch.int8, generator=generator)


@given(codes_of())
def test_packed_bytes_are_those_of_compressed_tensors(case: tuple[Scheme, torch.Tensor]) -> None:
    scheme, codes = case
    packed = pack(codes, scheme)
    assert torch.equal(packed.view(torch.int32), pack_to_int32(codes, scheme.bits))
    assert torch.equal(unpack(packed, scheme), codes)
    assert torch.equal(unpack_from_int32(packed.view(torch.int32), scheme.bits, codes.shape), codes)


@given(codes_of(), st.integers(0, 10**6))
def test_control_a_flipped_nibble_changes_the_weight(case: tuple[Scheme, torch.Tensor], where: int) -> None:
    scheme, codes = case
    packed = pack(codes, scheme)
    packed.view(-1)[where % packed.numel()] ^= 1
    assert not torch.equal(unpack(packed, scheme), codes)


@schemes
@pytest.mark.parametrize("spread", [1e-6, 0.02, 30.0])
def test_rounding(scheme: Scheme, spread: float) -> None:
    rows = torch.randn(64, 128, generator=torch.Generator().manual_seed(1)) * spread
    quantized = quantize_rows(rows, scheme)
    scales = quantized.scales
    dense = dequantize(quantized.packed, scales, scheme)
    assert (dense - rows).double().square().sum().item() == pytest.approx(quantized.error, rel=1e-5)
    assert quantized.error <= quantized.plain_error
    assert (scales.float() >= SMALLEST_SCALE).all()
    assert torch.equal(scales.float().half().float(), scales.float()), "exact in fp16"
    assert torch.equal(dense.to(scheme.exact_dtype).float(), dense), "the product too"
    assert unpack(quantized.packed, scheme).min() >= scheme.lowest


@given(st.sampled_from(SCHEMES), st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 0.02, 30.0]))
def test_the_search_finds_what_torch_finds(scheme: Scheme, seed: int, spread: float) -> None:
    rows = (torch.randn(3, 128, generator=torch.Generator().manual_seed(seed)) * spread).bfloat16().float()  # has ties
    groups = rows.unflatten(1, (-1, scheme.group or rows.shape[1]))
    widest = groups.abs().amax(-1) / scheme.highest
    candidates = torch.stack([few_digits(widest * ratio, scheme.scale_digits) for ratio in RATIOS.tolist()])
    codes = (groups * (1 / candidates)[..., None]).round().clamp(scheme.lowest, scheme.highest)
    errors = (codes * candidates[..., None] - groups).double().square().sum(-1)
    quantized = quantize_rows(rows, scheme)
    assert quantized.error == pytest.approx(float(errors.amin(0).sum()), rel=1e-5)
    assert quantized.plain_error == pytest.approx(float(errors[0].sum()), rel=1e-5)
    assert quantized.energy == pytest.approx(float(rows.double().square().sum()), rel=1e-5)
    chosen = (candidates == quantized.scales.float()).float().argmax(0, keepdim=True)
    assert torch.equal(candidates.gather(0, chosen)[0], quantized.scales.float()), "one of the candidates"
    expected = codes.gather(0, chosen[..., None].expand(1, *groups.shape))[0]
    assert torch.equal(unpack(quantized.packed, scheme).float(), expected.reshape(rows.shape))


def few_digits(scales: torch.Tensor, digits: int) -> torch.Tensor:
    mantissa, exponent = torch.frexp(scales)
    return torch.ldexp((mantissa * 2**digits).round() / 2**digits, exponent).clamp(min=float(SMALLEST_SCALE))


@schemes
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_leaves_no_finite_error(scheme: Scheme, value: float) -> None:
    rows = torch.ones(4, 128)
    rows[2, 77] = value
    assert not math.isfinite(quantize_rows(rows, scheme).error)


def test_search_gains_where_a_group_has_an_outlier() -> None:
    rows = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    quantized = quantize_rows(rows, INT4)
    assert quantized.error < 0.9 * quantized.plain_error


@schemes
def test_zeros_stay_zero(scheme: Scheme) -> None:
    quantized = quantize_rows(torch.zeros(3, 64), scheme)
    assert not dequantize(quantized.packed, quantized.scales, scheme).any()
