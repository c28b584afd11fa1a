"""The benchmarks' random weights: deep ones must be as well conditioned as a trained model, or gates mean nothing."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import random_checkpoint
from runtime.prompt import Prompter, user
from runtime.references import open_reference

LAYERS = 48
CHANGES = {"text_config": dict(hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2,
                               head_dim=64, global_head_dim=128, vocab_size=4096)}  # fmt: skip
CLIP = Path(__file__).parents[1] / "export" / "media" / "seven.wav"  # its last frame is silence: a soft token of zeros


def off(folder: Path) -> float:
    """How far transformers' fp32 is from itself in fp64, at the worst position of a question about the clip."""
    random_checkpoint.write_checkpoint(folder, LAYERS, CHANGES)
    inputs = Prompter(folder)(user("What is said?", clips=[str(CLIP)])).inputs
    assert inputs.input_features is not None and not inputs.input_features[0, -1].any()
    single, double = (open_reference(folder, "whole", dtype).read([inputs], [range(len(inputs.input_ids))])
                      for dtype in (torch.float32, torch.float64))  # fmt: skip
    return float(np.sqrt(np.square(single - double).mean(-1) / np.square(double).mean(-1)).max())


def test_rounding_stays_small_in_48_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a frame of silence too, which has nothing but what branches add to it."""
    assert off(tmp_path / "damped") < 1e-5
    all_layers = re.compile(random_checkpoint.BRANCH_NORM.pattern.replace(r"[1-9]\d*", r"\d+"))
    monkeypatch.setattr(random_checkpoint, "BRANCH_NORM", all_layers)
    assert off(tmp_path / "from the first layer on") > 5e-5, "control"
