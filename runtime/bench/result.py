"""What a bench comes to: the record that is printed as one JSON line."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from runtime.bench.memory import Memory
from runtime.manifest import Record


class Figure(Record):
    """One thing measured again and again. Values are in the order of the rounds, warm-up left out."""

    median: float
    spread: float  # (90th percentile - 10th percentile) / median
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        low, middle, high = np.percentile(values, [10, 50, 90])
        spread = (high - low) / middle if middle else 0.0
        return cls(median=_short(middle), spread=_short(spread), values=[_short(value) for value in values])


def _short(value: float) -> float:
    """With more digits than are true, and fewer than a line is readable with."""
    return float(f"{value:.6g}")


class Resident(Record):
    """Bytes; None: the system does not tell."""

    anonymous: int | None
    file: int | None
    total: int | None

    @classmethod
    def of(cls, memory: Memory) -> "Resident":
        known = memory.anonymous is not None and memory.file is not None
        return cls(anonymous=memory.anonymous, file=memory.file,
                   total=memory.anonymous + memory.file if known else None)  # type: ignore[operator]  # fmt: skip

    @classmethod
    def at_peak(cls, samples: Memory) -> "Resident":
        """Each kind's own highest sample, so they may not add up; the total is the kernel's, which misses nothing."""
        return cls(anonymous=samples.anonymous, file=samples.file, total=samples.peak)


class MemoryUse(Record):
    """Of an engine's process."""

    imported: Resident | None  # libraries alone, nothing of the bundle
    loaded: Resident | None  # the artifact, nothing run yet
    steady: Resident  # after the last round
    peak: Resident  # from the process's start on


class TextSpeed(Record):
    """A prompt of so many tokens from the start of a sequence, and decoding behind it."""

    length: int
    first_token: Figure  # seconds from handing over the tokens until the logits of the first new one
    prefill: Figure  # tokens per second
    decode: Figure | None  # tokens per second, sampling left out; None: not asked for at this length


class MediaSpeed(Record):
    """An image or a clip, already in the shape that the checkpoint's processor gives it."""

    modality: Literal["image", "audio"]
    positions: int  # soft tokens of it
    prompt: int  # positions of the whole prompt, text around it included
    encode: Figure | None  # seconds of the encoder alone; None: the engine does not run it alone
    prefill: Figure  # seconds of the whole prompt, the encoder included


class EngineSpeed(Record):
    """What one engine made of the same work."""

    engine: str
    load: Figure  # seconds to open the artifact in a new process, imports left out
    first_token: Figure | None  # seconds from there to the first token of the shortest prompt, nothing being warm
    threads: int | None  # of the process once it has loaded, those that wait included
    text: list[TextSpeed]
    media: list[MediaSpeed]
    memory: MemoryUse
    notes: list[str]


class Ratio(Record):
    """How often as fast as the peer in the same round, median over rounds; above 1 is faster."""

    engine: str
    peer: str
    length: int
    prefill: float
    decode: float | None


class Machine(Record):
    """That all was measured on."""

    name: str  # of its processor; of a phone, its own
    system: str
    cores: int
    threads: int  # that these cores run at once
    memory: int  # bytes
    load: float | None  # processes that wanted a core in the last minute before: other work makes figures worthless
    packages: dict[str, str]


class Work(Record):
    """What was asked for."""

    lengths: list[int]  # prompts prefilled
    contexts: list[int]  # of them those that are decoded behind
    tokens: int  # decoded
    repeats: int
    warmup: int  # rounds left out
    loads: int
    threads: int | None  # None: each engine's own choice


class Bench(Record):
    """All of one run."""

    bundle: str
    target: str
    recipe: str
    context: int
    device: str  # "here", "adb:" and the serial, or "app:" and the model of the phone that an app measured itself on
    work: Work
    machine: Machine
    engines: list[EngineSpeed]
    ratios: list[Ratio]
    skipped: dict[str, str]  # engine to the reason
    notes: list[str]
    energy: None = None  # not measured, anywhere


def ratios(engines: Sequence[EngineSpeed], peer: EngineSpeed) -> list[Ratio]:
    """Of every engine but the peer, at every length."""
    return [_ratio(engine.engine, peer.engine, ours, theirs)
            for engine in engines if engine is not peer
            for ours, theirs in zip(engine.text, peer.text, strict=True)]  # fmt: skip


def _ratio(engine: str, peer: str, ours: TextSpeed, theirs: TextSpeed) -> Ratio:
    both = ours.decode and theirs.decode
    return Ratio(engine=engine, peer=peer, length=ours.length,
                 prefill=_median_ratio(ours.prefill, theirs.prefill),
                 decode=_median_ratio(ours.decode, theirs.decode) if both else None)  # type: ignore[arg-type]  # fmt: skip


def _median_ratio(ours: Figure, theirs: Figure) -> float:
    return float(np.median(np.divide(ours.values, theirs.values)))
