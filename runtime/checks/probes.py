"""The sequences on which engines are compared with the reference, and the reference's answers to them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.engines import Engine
from runtime.goldens import Golden
from runtime.job import Job
from runtime.manifest import TensorDigest
from runtime.prompt import MediaTokens, append, split
from runtime.references import Reference
from runtime.scratch import scratch
from runtime.sessions.base import ModelInputs

STEPS = (5, 1, 24, 3)  # sizes of prefills, again and again
LARGE = 2**31  # weights of a model where each position takes seconds, of an engine or of the reference


@dataclass(frozen=True)
class Extent:
    """How much is compared."""

    text: int  # positions of running text that are decoded, at least
    continuation: int  # positions that are decoded after the prompts of other modalities
    prompts: int | None  # of each of those modalities; None: all
    long: bool  # whether the one beyond a sliding window is among them: the check of goldens has it as well

    @classmethod
    def of(cls, tensors: Sequence[TensorDigest]) -> "Extent":
        return SHORT if sum(math.prod(tensor.shape) for tensor in tensors) > LARGE else WHOLE


WHOLE, SHORT = Extent(400, 64, None, long=True), Extent(128, 16, 1, long=False)


@dataclass(frozen=True)
class Probe:
    """A sequence to be compared."""

    modality: str
    prompt: ModelInputs
    continuation: NDArray[np.int64]

    @property
    def sequence(self) -> ModelInputs:
        return append(self.prompt, self.continuation)


@dataclass(frozen=True)
class Readings:
    """What an engine says at some positions of the probes of a modality."""

    modality: str
    positions: NDArray[np.int64]  # [n], of one probe after another
    logits: NDArray[np.float32]  # [n, vocabulary]


def make_probes(job: Job) -> Iterator[Probe]:
    """Held-out text in pieces that fit the window; goldens of other modalities, continued with it."""
    text, bos, extent = _text(job), job.manifest.tokens.bos, Extent.of(job.manifest.tensors)
    size = min(job.manifest.limits.sliding_window, extent.text + STEPS[0]) - 1
    for start in range(0, -(-extent.text // (size - STEPS[0])) * size, size):
        piece = np.array([bos, *np.take(text, range(start, start + size), mode="wrap")])
        yield Probe("text", ModelInputs(piece[: STEPS[0]]), piece[STEPS[0] :])
    for golden in _continued(job, extent):
        continuation = np.array([*golden.tokens, *np.take(text, range(extent.continuation), mode="wrap")])
        yield Probe(golden.modality, golden.inputs, continuation[: extent.continuation])


def _continued(job: Job, extent: Extent) -> Iterator[Golden]:
    """All but text, or the first few of each modality."""
    groups: dict[str, list[Golden]] = {}
    left_out = ("text",) if extent.long else ("text", "long")
    for golden in (golden for golden in job.goldens if golden.modality not in left_out):
        groups.setdefault(golden.modality, []).append(golden)
    return (golden for goldens in groups.values() for golden in goldens[: extent.prompts])


def _text(job: Job) -> NDArray[np.int64]:
    """Tokens of running text: held-out if at hand, else the long golden's."""
    if job.held_out and job.held_out.texts:
        return np.concatenate([job.prompter.encode(text) for text in job.held_out.texts])
    return next(golden.inputs.input_ids[1:] for golden in job.goldens if golden.modality == "long")


def cut(probe: Probe, media: MediaTokens, splits_media: bool) -> list[ModelInputs]:
    """The prompt in uneven steps; whole for an engine that wants all media first."""
    has_media = len(probe.prompt.arrays()) > 1
    return [probe.prompt] if has_media and not splits_media else split(probe.prompt, cycle(STEPS), media)


def ends(probe: Probe, media: MediaTokens, splits_media: bool) -> NDArray[np.int64]:
    """Positions that an engine is read at: the prompt's last, those of its steps, and all that continue it."""
    steps = cut(probe, media, splits_media)
    stops = np.cumsum([len(step.input_ids) for step in steps])
    read = stops[[is_read(step, media) for step in steps]]
    return np.concatenate([stops[-1:], read, stops[-1] + np.arange(1, len(probe.continuation) + 1)]) - 1


def is_read(step: ModelInputs, media: MediaTokens) -> bool:
    """Not behind a medium: no app asks there, no model was taught an answer, and a clip may end in a frame of silence,
    whose soft token is zero. What is wrong there shows in all that follows.
    """
    return int(step.input_ids[-1]) not in media


def by_modality(
    probes: Sequence[Probe], logits: NDArray[np.float32], read: Sequence[NDArray[np.int64]]
) -> list[Readings]:
    """Logits of all probes, which come sorted and were read at these positions."""
    found, start = [], 0
    for modality, group in groupby(zip(probes, read, strict=True), lambda pair: pair[0].modality):
        positions = np.concatenate([some for _, some in group])
        found.append(Readings(modality, positions, logits[start : start + len(positions)]))
        start += len(positions)
    return found


class Answers:
    """The reference's logits, by arithmetic. Each takes a pass over all probes, so it is kept for other engines."""

    def __init__(self, job: Job, probes: Sequence[Probe]) -> None:
        self.job = job
        self.probes = probes
        self._positions = [np.unique(ends(probe, job.media, splits_media=True)) for probe in probes]  # of all engines
        self._kept: dict[str, NDArray[np.float32]] = {}

    def plain(self, engine: Engine) -> list[Readings]:
        """With int8 keys and values where the bundle has them."""
        return self._at(engine, "plain", lambda: self.job.reference.variant(kv_scales=self.job.kv_scales))

    def exact_cache(self, engine: Engine) -> list[Readings]:
        """Without."""
        return self._at(engine, "exact cache", lambda: self.job.reference)

    def unrounded(self, engine: Engine) -> list[Readings]:
        """What the engine's float twin should say: all in fp32 but the caches of one that has them in fp16."""
        if not engine.half:
            return self.plain(engine)
        return self._at(engine, "fp16 cache", lambda: self.job.reference.variant(half_cache=True))

    def rounded(self, engine: Engine, folder: Path) -> list[Readings]:
        """Rounded as the engine does: what no kernel could avoid."""
        arithmetic = "fp16" if engine.half else repr(self.job.blocks(engine, folder))
        return self._at(engine, arithmetic, lambda: self.job.in_torch(engine, folder))

    def _at(self, engine: Engine, arithmetic: str, reference: Callable[[], Reference]) -> list[Readings]:
        """Where the engine is read."""
        if arithmetic not in self._kept:
            self._kept[arithmetic] = reference().read([probe.sequence for probe in self.probes], self._positions)
        logits = self._kept[arithmetic]
        read = [ends(probe, self.job.media, engine.splits_media) for probe in self.probes]
        starts = np.cumsum([0, *map(len, self._positions)])
        places = [start + np.searchsorted(all_, some)
                  for start, all_, some in zip(starts, self._positions, read, strict=False)]  # fmt: skip
        chosen = np.take(logits, np.concatenate(places), 0, scratch(sum(map(len, read)), logits.shape[1]), "clip")
        return by_modality(self.probes, chosen, read)
