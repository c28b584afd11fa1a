"""Quantizing takes the memory of a few blocks, however large a tensor is."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests import random_models as models

VOCABULARY = 2**19  # 128 MiB of bf16 in one tensor, at a width of 128
ALLOWED = 64 * 2**20  # bytes of anonymous memory beyond what imports take

MEASURE = """
import json, sys, threading, time
from pathlib import Path
from export.quantize import quantize
from export.recipes import RECIPES
from export.sources import open_source

def anonymous():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) * 1024

source = open_source(Path(sys.argv[1]))
before, peak, done = anonymous(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
quantize(source, RECIPES[sys.argv[3]], "large", Path(sys.argv[2]))
done.set()
watcher.join()
print(json.dumps(peak - before))
"""


def test_embedding_is_never_held_whole(tmp_path: Path) -> None:
    config = models.random_config(vision=False, audio=False, num_hidden_layers=1, layer_types=["full_attention"])
    source = models.save(models.random_model(config), tmp_path / "source")
    description = json.loads((source / "config.json").read_text())
    description["text_config"]["vocab_size"] = VOCABULARY
    (source / "config.json").write_text(json.dumps(description))
    weights = load_file(source / "model.safetensors")
    name = "model.language_model.embed_tokens.weight"
    weights[name] = torch.randn(VOCABULARY, weights[name].shape[1]).bfloat16()
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    command = [sys.executable, "-c", MEASURE, str(source), str(tmp_path / "out"), "int4"]
    grown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert grown < ALLOWED
