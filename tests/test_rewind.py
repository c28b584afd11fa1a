"""A session that is taken back goes on as one that was never ahead, or says that it cannot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.lowering.onnx_program import write_onnx
from export.schemes import INT4
from runtime.sessions.base import ModelInputs, Rewindable, Session
from runtime.sessions.onnx import OnnxSession
from tests import coreml_models
from tests import random_models as models
from tests.executorch_models import SHALLOW, Lowered
from tests.parity import quantize

CONTEXT, WINDOW = 128, 16  # of all random models
CHECKPOINT = Path(__file__).parent.parent / "export/tiny/checkpoint"
BAR = 1e-6  # relative rms


def open_onnx(folder: Path) -> Session:
    model, weights = quantize(models.random_model(models.random_config(**SHALLOW)), INT4)
    write_onnx(model, weights, CHECKPOINT, folder, CONTEXT)
    return OnnxSession(folder, exact=True)


def open_coreml(folder: Path) -> Session:
    return coreml_models.Lowered(folder, INT4, **SHALLOW).session()


@pytest.fixture(scope="module", params=["onnx", "executorch", "coreml"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    if request.param == "executorch":
        lowered: Lowered = request.getfixturevalue("shallow")
        return lowered.session
    makers: dict[str, Callable[[Path], Session]] = {"onnx": open_onnx, "coreml": open_coreml}
    return makers[request.param](tmp_path_factory.mktemp(request.param))


def advance(session: Session, length: int, behind: int) -> None:
    """To a position, and so many tokens further."""
    ids = models.text_prompt(CONTEXT, 0).inputs.input_ids
    session.reset()
    session.prefill(ModelInputs(ids[:length]))
    for token in ids[length : length + behind]:
        session.decode(int(token))


def go_on(session: Session) -> NDArray[np.float32]:
    """Logits [4, vocabulary] of other tokens than those that stood there."""
    ids = models.text_prompt(CONTEXT, 0).inputs.input_ids[::-1]
    return np.stack([session.prefill(ModelInputs(ids[:5].copy())), *(session.decode(int(token)) for token in ids[5:8])])


def error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return models.relative_rms(torch.from_numpy(found), torch.from_numpy(wanted))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(length=st.integers(1, 60), behind=st.integers(1, 55))
def test_what_follows_is_as_if_it_had_never_been_ahead(session: Session, length: int, behind: int) -> None:
    advance(session, length, 0)
    wanted = go_on(session)
    advance(session, length, behind)
    assert isinstance(session, Rewindable)
    if session.rewind(length):
        assert session.position == length and error(go_on(session), wanted) < BAR
    else:
        assert session.position == length + behind > 2 * WINDOW  # which all caches hold


@pytest.mark.parametrize("behind", [1, WINDOW])
def test_a_short_answer_is_taken_back_however_long_the_conversation(session: Session, behind: int) -> None:
    """But by onnxruntime, which moves rows about."""
    advance(session, 90, 0)
    wanted = go_on(session)
    advance(session, 90, behind)
    assert isinstance(session, Rewindable)
    assert session.rewind(90) == (session.name != "onnxruntime")
    assert session.position != 90 or error(go_on(session), wanted) < BAR


def test_control_positions_alone_do_not_bring_back_what_a_ring_has_lost(session: Session) -> None:
    advance(session, 20, 0)
    wanted = go_on(session)
    advance(session, 20, 90)
    assert isinstance(session, Rewindable) and not session.rewind(20)
    session.position = 20  # type: ignore[misc]
    assert error(go_on(session), wanted) > 1e-3
