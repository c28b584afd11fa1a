"""Synthetic spoken digits: espeak-ng's English accents times its voice variants, some variants held out."""

import io
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from rich.progress import track

from export.tiny.model import FRAME, RATE

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ACCENTS = [
    "en-gb", "en-us", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-us-nyc",
]  # fmt: skip
HELD_OUT_VARIANTS = [
    "Andrea", "boris", "f2", "Hugo", "iven3", "klatt4", "linda", "m3", "Marco", "robosoft5", "steph2", "victor",
]  # fmt: skip
LONGEST = 24  # frames; longer renderings (very slow variants) are cut


@dataclass
class Clips:
    """Clips one after the other: int16 samples at 16 kHz, where each starts, which digit, which voice."""

    samples: np.ndarray
    starts: np.ndarray
    digits: np.ndarray
    voices: list[str]

    def clip(self, index: int) -> np.ndarray:
        """float32 samples in -1..1 of one clip."""
        return self.samples[self.starts[index] : self.starts[index + 1]].astype(np.float32) / 32768


def variants() -> list[str]:
    """The voice variants that this espeak-ng has; `fast` is a test of its own and left out."""
    lines = subprocess.run(["espeak-ng", "--voices=variant"], capture_output=True, text=True, check=True).stdout
    names = {line.split("!v/")[1].split()[0] for line in lines.splitlines() if "!v/" in line}
    return sorted(names - {"fast"}, key=str.lower)


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Without the silence around the word."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return samples[max(loud[0] - 160, 0) : loud[-1] + 320][: LONGEST * FRAME]


def render(voice: str, digit: int, speed: int, pitch: int) -> np.ndarray:
    """One spoken digit as int16 samples at 16 kHz."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", DIGITS[digit]]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    header = raw.index(b"data") + 8  # espeak-ng streams: the sizes in its WAV header are not valid
    rate = int.from_bytes(raw[24:28], "little")
    samples = np.frombuffer(raw[header : header + (len(raw) - header) // 2 * 2], "<i2").astype(np.float32) / 32768
    spoken = trimmed(soxr.resample(samples, rate, RATE))
    return (spoken / max(np.abs(spoken).max(), 1e-3) * 0.7 * 32767).astype(np.int16)


def plan(takes: int, held_out: bool, seed: int) -> list[tuple[str, int, int, int]]:
    """(voice, digit, speed in words per minute, pitch 0..99) of every rendering."""
    random = np.random.default_rng(seed)
    names = [name for name in variants() if (name in HELD_OUT_VARIANTS) == held_out]
    chosen = [(f"{a}+{v}", digit) for v in names for a in ACCENTS for digit in range(10) for _ in range(takes)]
    return [(voice, digit, int(random.integers(120, 220)), int(random.integers(20, 80))) for voice, digit in chosen]


def synthesize(takes: int, held_out: bool, seed: int) -> Clips:
    """Render the whole plan, two processes at a time."""
    jobs = plan(takes, held_out, seed)
    with ThreadPoolExecutor(2) as pool:
        clips = list(track(pool.map(lambda job: render(*job), jobs), "speaking digits", total=len(jobs)))
    starts = np.cumsum([0] + [len(clip) for clip in clips])
    return Clips(np.concatenate(clips), starts, np.array([job[1] for job in jobs]), [job[0] for job in jobs])


def clips(cache: Path, takes: int, held_out: bool, seed: int) -> Clips:
    """The rendered clips, kept in `cache` between runs."""
    file = cache / f"digits-{'heldout' if held_out else 'train'}-{takes}-{seed}.npz"
    if not file.exists():
        made = synthesize(takes, held_out, seed)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file, samples=made.samples, starts=made.starts, digits=made.digits, voices=made.voices)
    with np.load(file) as stored:
        return Clips(stored["samples"], stored["starts"], stored["digits"], stored["voices"].tolist())


def frames(samples: np.ndarray) -> np.ndarray:
    """What the feature extractor makes of float32 samples: float32[ceil(n / 640), 640], zero-padded at the end."""
    return np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)


def disturbed(clip: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The clip somewhere in silence (up to 0.2 s before, 0.1 s after), louder or softer, sometimes with noise."""
    before, after = random.integers(0, RATE // 5), random.integers(0, RATE // 10)
    moved = np.pad(clip, (before, after)) * random.uniform(0.2, 1.3)
    if random.random() < 0.5:
        moved += random.normal(0, 10 ** random.uniform(-4, -1.8), len(moved))
    return moved.clip(-1, 1).astype(np.float32)


def write(file: Path, samples: np.ndarray) -> None:
    """float samples as 16-bit FLAC or WAV, by the file's suffix."""
    soundfile.write(file, samples, RATE, subtype="PCM_16")


def read(raw: bytes) -> np.ndarray:
    """float32 samples of an encoded clip."""
    return soundfile.read(io.BytesIO(raw), dtype="float32")[0]
