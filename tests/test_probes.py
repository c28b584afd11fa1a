"""Where engines are read while they are compared with the reference."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime import metrics
from runtime.checks import lowering, probes
from runtime.engines import ENGINES
from runtime.gates import GATES
from runtime.job import Job
from runtime.verify import make_job

ONNX = ENGINES["onnx"][0]


@pytest.fixture
def job(bundle: Path, quantized_checkpoint: Path) -> Job:
    return make_job(bundle, quantized_checkpoint, None, None, GATES, lambda text: None)


def probes_of(job: Job, modality: str) -> list[probes.Probe]:
    return [probe for probe in probes.make_probes(job) if probe.modality == modality]


@pytest.mark.parametrize("modality", ["text", "image", "audio", "long"])
def test_the_prompt_its_steps_and_all_behind_it_are_read_but_no_medium(job: Job, modality: str) -> None:
    for probe in probes_of(job, modality):
        read, ids = probes.ends(probe, job.media, splits_media=True), probe.sequence.input_ids
        assert not {int(ids[position]) for position in read} & {job.media.image, job.media.audio}
        behind = np.arange(len(probe.prompt.input_ids) - 1, len(ids))
        assert set(behind) <= set(read.tolist()) and read.max() == len(ids) - 1


@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_a_clip_whose_last_frame_is_off_is_seen_in_what_follows(job: Job, bundle: Path, off: float) -> None:
    """By the float twin's bar, without a look at the frame's own position."""
    probe = probes_of(job, "audio")[0]
    assert probe.prompt.input_features is not None
    frames = probe.prompt.input_features.copy()
    frames[0, -1] += off
    spoiled = replace(probe, prompt=replace(probe.prompt, input_features=frames))
    session = ONNX.exact(bundle / "onnx") if ONNX.exact else None
    assert session is not None
    right, wrong = (lowering._read(session, [one], job, ONNX)[0].logits for one in (probe, spoiled))
    assert GATES["twin_rms"].holds(metrics.relative_rms(right, wrong)) == (off == 0)
