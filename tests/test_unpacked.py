"""Layers of a packed checkpoint are unpacked once, and are the same bits afterwards."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from export.quantize import quantize
from export.recipes import RECIPES
from export.sources import open_source
from runtime.sessions import streamed, unpacked
from runtime.sessions.streamed import StreamedReference
from runtime.sessions.unpacked import UnpackedLayers, narrowed
from tests import random_models as models
from tests.random_models import random_config, random_model, text_prompt

PROMPT = text_prompt(20, 20)
HELD_IN = {"int4": torch.bfloat16, "int8": torch.float16}
UP = "mlp.up_proj.weight"


@pytest.fixture(scope="module", params=HELD_IN)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    source = models.save(random_model(random_config(vision=False, audio=False)), folder / "source")
    quantize(open_source(source), RECIPES[request.param], "random", folder / request.param)
    return folder / request.param


def logits(reference: StreamedReference) -> np.ndarray:
    return np.array(reference.read([PROMPT.inputs], [np.arange(PROMPT.length)]))


def layers(reference: StreamedReference) -> UnpackedLayers:
    assert reference.model._unpacked
    return reference.model._unpacked


def kept(reference: StreamedReference) -> list[int]:
    return [index for index in range(reference.model.depth) if index in layers(reference)]


def test_later_passes_unpack_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = StreamedReference.open(checkpoint)
    first = logits(reference)
    assert kept(reference) == list(range(reference.model.depth))
    monkeypatch.setattr(streamed, "dequantize", lambda *_: pytest.fail("it unpacks again"))
    assert np.array_equal(logits(reference), first)
    with pytest.raises(pytest.fail.Exception):
        logits(StreamedReference.open(checkpoint))


def test_two_bytes_hold_a_weight(checkpoint: Path) -> None:
    reference = StreamedReference.open(checkpoint)
    with reference.model.layer(0) as layer:
        weights = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    _, stored = layers(reference)[0]
    assert stored[UP].dtype == HELD_IN[checkpoint.name]
    assert stored.keys() == weights.keys() and all(torch.equal(stored[name].float(), weights[name]) for name in weights)


def test_another_weight_would_be_seen(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control."""
    reference = StreamedReference.open(checkpoint)
    first, tensors = logits(reference), unpacked._Kept.tensors

    def spoilt(kept: Any) -> dict[str, torch.Tensor]:
        found = tensors(kept)
        found[UP][0, 0] += 1
        return found

    monkeypatch.setattr(unpacked._Kept, "tensors", spoilt)
    assert not np.array_equal(logits(reference), first)


def test_no_value_is_lost() -> None:
    for values, dtype in (([1.5, -3.0], torch.bfloat16), ([1 + 2**-9], torch.float16), ([1 + 2**-20], torch.float32)):
        tensor = torch.tensor(values)
        assert narrowed(tensor).dtype == dtype and torch.equal(narrowed(tensor).float(), tensor)
    assert torch.equal(narrowed(torch.tensor([3])), torch.tensor([3]))


def test_tensors_of_any_width_share_a_file() -> None:
    values = {"a": torch.tensor([True]), "b": torch.tensor([[1.5], [2.5], [3.5]]), "c": torch.tensor(2**40),
              "d": torch.tensor([1 + 2**-20]), "e": torch.zeros(0, 3)}  # fmt: skip
    found = unpacked._Kept.write(values).tensors()
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "a": torch.bool, "b": torch.bfloat16, "c": torch.int64, "d": torch.float32, "e": torch.bfloat16,
    }  # fmt: skip
    assert all(torch.equal(found[name].to(tensor.dtype), tensor) for name, tensor in values.items())


def test_without_room_none_is_kept(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = logits(StreamedReference.open(checkpoint))
    monkeypatch.setattr(unpacked.shutil, "disk_usage", lambda _: SimpleNamespace(free=unpacked.LEFT))
    reference = StreamedReference.open(checkpoint)
    assert np.array_equal(logits(reference), wanted) and not kept(reference)


def test_a_disk_that_fills_up_meanwhile(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, write, written = StreamedReference.open(checkpoint), unpacked._Kept.write, []
    wanted = logits(StreamedReference.open(checkpoint))

    def fails_later(tensors: dict[str, torch.Tensor]) -> Any:
        written.append(write(tensors))
        if len(written) == 3:
            raise OSError("no space left")
        return written[-1]

    monkeypatch.setattr(unpacked._Kept, "write", fails_later)
    assert np.array_equal(logits(reference), wanted) and not kept(reference)
    assert np.array_equal(logits(reference), wanted)


def test_files_have_no_name_that_a_kill_would_leave(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    reference = StreamedReference.open(checkpoint)
    logits(reference)
    assert kept(reference) and not list(tmp_path.iterdir())
