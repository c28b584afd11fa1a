"""Sampling, against transformers' own processors of logits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from runtime.manifest import Sampling, Tokens
from runtime.sampling import Sampler, probabilities

NONE = dict(image=None, audio=None, video=None, begin_image=None, end_image=None, begin_audio=None, end_audio=None)
TOKENS = Tokens(bos=2, eos=[1], pad=0, suppress=[5, 7], **NONE)


def sampling(temperature: float = 1.0, top_k: int = 64, top_p: float = 0.95, do_sample: bool = True) -> Sampling:
    return Sampling(do_sample=do_sample, temperature=temperature, top_k=top_k, top_p=top_p)


def logits_of(seed: int, size: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 3), st.integers(1, 250), st.floats(0.05, 1))
def test_probabilities_are_those_of_transformers(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    logits = logits_of(seed)
    scores, ids = torch.from_numpy(logits).double()[None], torch.zeros(1, 0, dtype=torch.long)
    for warp in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)):
        scores = warp(ids, scores)
    found = probabilities(logits, sampling(temperature, top_k, top_p))
    assert found == pytest.approx(scores.softmax(-1)[0].numpy(), abs=1e-9)


def test_control_another_temperature_gives_other_probabilities() -> None:
    found = [probabilities(logits_of(0), sampling(temperature)) for temperature in (1.0, 1.1)]
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    logits = logits_of(1, 12)
    drawn = [[sampler(logits) for _ in range(4000)] for sampler in (Sampler(sampling(), TOKENS, 3) for _ in range(2))]
    assert drawn[0] == drawn[1]
    kept = logits.copy()
    kept[TOKENS.suppress] = -np.inf
    shares = np.bincount(drawn[0], minlength=12) / 4000
    assert shares == pytest.approx(probabilities(kept, sampling()), abs=0.03)
    assert not shares[TOKENS.suppress].any()


@pytest.mark.parametrize("greedy", [sampling(do_sample=False), sampling(temperature=0)])
def test_greedy_takes_the_likeliest_that_is_allowed(greedy: Sampling) -> None:
    logits = np.zeros(12, np.float32)
    logits[[5, 3]] = 9, 8
    assert Sampler(greedy, TOKENS)(logits) == 3
