"""The benchmark beside llama.cpp: its model as GGUF's own reader sees it, its arithmetic, and what it says."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gguf_model import matrices, matrix_bytes, write_gguf
from benchmarks.peers import PEER, main, missed, run_llama, summarize
from benchmarks.random_checkpoint import TEXT
from runtime.errors import UserError

LAYERS = 2
NARROW = TEXT | {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
                 "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip


def round_of(bandwidth: float, **decode: float) -> dict[str, Any]:
    """With prefill twice as fast as decoding, in milliseconds per token."""
    return {"bandwidth": bandwidth} | {name: (taken / 2, taken) for name, taken in decode.items()}


def test_gguf_is_read_back_by_its_own_reader(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    write_gguf(tmp_path / "model.gguf", LAYERS, NARROW)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    stated = {name: field.contents() for name, field in reader.fields.items()}
    assert stated["general.architecture"] == "gemma3" and stated["gemma3.block_count"] == LAYERS
    assert stated["gemma3.vocab_size"] == 96 and stated["gemma3.attention.key_length"] == 32
    quantized = [tensor for tensor in reader.tensors if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_0]
    assert {tensor.name: tuple(tensor.shape[::-1]) for tensor in quantized} == matrices(LAYERS, NARROW)
    assert sum(tensor.n_bytes for tensor in quantized) == matrix_bytes(LAYERS, NARROW)
    for tensor in quantized:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        spread = values.std() * math.sqrt(values.shape[1])
        assert 0.9 < spread < 1.1 and len(np.unique(values)) == 16, tensor.name
    norms = [tensor for tensor in reader.tensors if tensor not in quantized]
    assert len(norms) == 1 + 6 * LAYERS and all((tensor.data == 1).all() for tensor in norms)


def test_matrices_of_the_12b_come_to_four_and_a_half_bits() -> None:
    weights = sum(math.prod(shape) for shape in matrices(6, TEXT).values())
    assert matrix_bytes(6, TEXT) * 8 / weights == 4.5
    attention, feed_forward = (16 + 8 + 8 + 16) * 256 * 3840, 3 * 15360 * 3840
    assert weights == 262144 * 3840 + 6 * (attention + feed_forward)


def test_figures_are_medians_of_what_each_round_says() -> None:
    rounds = [
        round_of(10e9, onnx=200, executorch=300, **{PEER: 220}),
        round_of(5e9, onnx=400, executorch=600, **{PEER: 480}),  # half as fast in all: ratios do not care
        round_of(10e9, onnx=200, executorch=300, **{PEER: 180}),
    ]
    engines = summarize(rounds, {"onnx": 1.8e9, "executorch": 1.5e9, PEER: 1.4e9})
    assert list(engines) == ["onnx", "executorch", PEER]
    assert engines["onnx"]["decode_ms"] == 200 and engines["onnx"]["prefill_ms"] == 100
    assert engines["onnx"]["decode_ratio"] == engines["onnx"]["prefill_ratio"] == pytest.approx(1.1)
    assert engines["onnx"]["of_bandwidth"] == pytest.approx(0.9)
    assert engines["executorch"]["of_bandwidth"] == pytest.approx(0.5)
    assert engines[PEER]["decode_ratio"] == 1 and not missed(engines)


def test_bars_are_missed_where_an_engine_is_slower() -> None:
    sizes = {"onnx": 1.8e9, "executorch": 1.5e9, PEER: 1.4e9}
    slow = summarize([round_of(10e9, onnx=220, executorch=340, **{PEER: 210})], sizes)
    assert missed(slow) == ["onnx: of_bandwidth", "onnx: decode_ratio", "executorch: of_bandwidth"]
    alone = summarize([round_of(10e9, onnx=200, executorch=300)], sizes)
    assert alone["onnx"]["decode_ratio"] is None and not missed(alone)


def test_missing_tools_are_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="pip install gguf"):
        write_gguf(tmp_path / "model.gguf", LAYERS, NARROW)
    with pytest.raises(UserError, match="name a llama-bench executable"):
        run_llama(tmp_path / "none", tmp_path, 1)
    with pytest.raises(UserError, match="fails"):
        run_llama(Path("/bin/false"), tmp_path, 1)


def test_bad_input_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers", f"--gguf-bench={tmp_path}/none", f"--folder={tmp_path}"])
    with pytest.raises(SystemExit, match="2"):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no file" in line and not list(tmp_path.iterdir())
