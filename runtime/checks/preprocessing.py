"""What an engine's own tokenizer and media processing change, apart from the lowering error.

Each golden's rendered text and media files go through the engine as an application would send them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from runtime import metrics
from runtime.engines import Engine
from runtime.goldens import FOLDER, Golden
from runtime.greedy import generate, suppress
from runtime.job import Job
from runtime.manifest import Measure
from runtime.prompt import media_paths, read_image
from runtime.sessions.base import Logits, ModelInputs, Session
from runtime.sessions.genai import GenaiSession


def run(job: Job) -> Iterator[Measure]:
    """Tokens, values and their cost, by kind: inputs that need no resizing, and images that do."""
    for engine, folder in job.engines():
        if engine.open is not GenaiSession:  # no other has processing of its own
            continue
        session = GenaiSession(folder)
        for golden in job.goldens:
            job.status(f"{engine.name}: its own processing of {golden.name}")
            yield from _measures(job, engine, session, golden)


def _measures(job: Job, engine: Engine, session: GenaiSession, golden: Golden) -> Iterator[Measure]:
    resized = is_resized(job, golden)
    kind = f"{golden.modality}, resized" if resized else golden.modality

    def measure(name: str, value: float, note: str = golden.name) -> Measure:
        return job.measure("preprocessing", name, value, engine=engine.name, modality=kind, note=note)

    images, clips = (_files(job, golden, kind) for kind in ("image", "audio"))
    found = session.preprocess(golden.text, images, clips)
    yield measure("other_tokens_media" if images or clips else "other_tokens", _edits(golden, found))
    if images or clips:
        suffix = "_resized" if resized else ""
        yield measure(f"other_values{suffix}", largest_difference(golden.inputs, found))
        with_our_tokens = replace(found, input_ids=golden.inputs.input_ids)
        wanted, with_values, own = (_after(session, some) for some in (golden.inputs, with_our_tokens, found))
        yield measure(f"values_kl{suffix}", _cost(wanted, with_values))
        yield measure("own_kl", _cost(wanted, own))
    generated = session.generate(golden.text, images, clips, max_tokens=len(golden.tokens) + 1)
    match = _match(job, golden.tokens, generated, golden.gaps)
    if match.errors:  # of the engine's arithmetic, maybe, which is another check's matter
        text = generate(session, golden.inputs, job.manifest.tokens, len(golden.tokens))
        gaps = metrics.top_gaps(suppress(text.logits, job.manifest.tokens.suppress)).tolist()
        match = _match(job, text.chosen, generated, gaps)
    yield measure("own_greedy", len(match.errors), _explain(golden, match))


def _match(job: Job, wanted: Sequence[int], generated: Sequence[int], gaps: Sequence[float]) -> metrics.GreedyMatch:
    """A text that ends must end there; one that was cut may go on."""
    if wanted[-1] in job.manifest.tokens.eos:
        wanted, gaps = [*wanted, metrics.NOTHING], [*gaps, np.inf]
    return metrics.compare_generated(wanted, generated, gaps, job.gates["near_tie"].bound)


def _files(job: Job, golden: Golden, kind: str) -> list[Path]:
    return [job.bundle / FOLDER / path for path in media_paths(golden.messages, kind)]


def is_resized(job: Job, golden: Golden) -> bool:
    """Whether the processor had to resize an image: its soft tokens show other pixels than the file has."""
    if golden.inputs.pixel_values is None or golden.inputs.image_position_ids is None:
        return False
    patch = golden.inputs.pixel_values.shape[-1] // 3  # pixels
    shown = (golden.inputs.image_position_ids.max(1) + 1).prod(-1) * patch
    sizes = [read_image(path).size for path in _files(job, golden, "image")]
    return bool((shown != np.prod(sizes, axis=-1)).any())


def _edits(golden: Golden, found: ModelInputs) -> int:
    """Tokens to delete and to insert to get from one prompt to the other."""
    matcher = SequenceMatcher(None, golden.inputs.input_ids.tolist(), found.input_ids.tolist(), autojunk=False)
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    return sum(stop - start + other_stop - other for _, start, stop, other, other_stop in changes)


def largest_difference(wanted: ModelInputs, found: ModelInputs) -> float:
    """Of a pixel 0..1 or a sample -1..1, padding left out; infinite where other numbers of values come out."""
    pairs = list(zip(_values(wanted), _values(found), strict=True))
    if any(want.shape != got.shape for want, got in pairs):
        return float("inf")
    return max(float(np.abs(want - got).max()) for want, got in pairs)


def _values(inputs: ModelInputs) -> list[np.ndarray]:
    """Rows [n, width] of all media that are not padding."""
    rows = []
    if inputs.pixel_values is not None and inputs.image_position_ids is not None:
        rows.append(inputs.pixel_values[inputs.image_position_ids[..., 0] >= 0])
    if inputs.input_features is not None and inputs.input_features_mask is not None:
        rows.append(inputs.input_features[inputs.input_features_mask.astype(bool)])
    return rows


def _after(session: Session, inputs: ModelInputs) -> Logits:
    """What the engine says behind a prompt."""
    session.reset()
    return session.prefill(inputs)


def _cost(wanted: Logits, found: Logits) -> float:
    """Nats."""
    return float(metrics.kl_divergence(wanted[None], found[None])[0])


def _explain(golden: Golden, match: metrics.GreedyMatch) -> str:
    """Where the engine, left to itself, began to write something else."""
    differing = [f"near tie at {i}" for i in match.near_ties] + [f"differs at {i}" for i in match.errors]
    return "; ".join([golden.name, *differing])
