"""A Core ML bundle of the embedded model with goldens, made anew from today's code: quicker than a whole export, as
nothing but its files is verified."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from export.config import read_model
from export.media import golden_prompts
from export.sources import open_source
from runtime.errors import UserError, first_line
from runtime.goldens import record
from runtime.manifest import read_manifest, write_manifest
from runtime.prompt import Prompter
from runtime.references import open_reference

STEPS = 8  # tokens of each golden


def make_bundle(bundle: Path, build: Path) -> None:
    """
    Args:
        build: folder of quantized checkpoints and other things on the way.

    Raises:
        UserError: the export fails.
    """
    words = [sys.executable, "-m", "export", "--target", "ios", "--reference", "none", "--build", str(build),
             "--out", str(bundle)]  # fmt: skip
    done = subprocess.run(words, text=True, capture_output=True, env=os.environ | {"NO_COLOR": "1"})
    if done.returncode:
        raise UserError(f"`{' '.join(words)}` fails: {first_line(Exception(done.stderr))}")
    _add_goldens(bundle, build / "quantized" / bundle.name)


def _add_goldens(bundle: Path, quantized: Path) -> None:
    prompter, manifest = Prompter(bundle), read_manifest(bundle)
    with TemporaryDirectory() as scratch:
        prompts = golden_prompts(read_model(open_source(quantized).config), prompter, Path(scratch))
        reference = open_reference(quantized, "whole")
        goldens = record(prompts, bundle, prompter, reference, manifest.tokens, STEPS)
    write_manifest(bundle, manifest.model_copy(update={"goldens": goldens}))
