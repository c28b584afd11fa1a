"""The `.aimodel`, run by Core AI on the CPU, against transformers' own model on the same dequantized weights."""

import shutil
import tomllib
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export.calibrate import calibrate_cache
from export.config import Model
from export.formats import FORMATS, require_memory, require_supported
from export.lowering.torch_modules import Sizes
from export.lowering.torch_ops import TorchOps
from export.lowering.torch_program import TorchProgram
from export.pipeline import Request, export
from export.recipes import RECIPES
from export.schemes import INT4, INT8, Scheme
from export.weights import MemoryWeights, Packed
from runtime import installed as packages
from runtime import readback_coreai
from runtime.errors import UserError
from runtime.manifest import TensorDigest
from runtime.readback import digest_of, narrow
from runtime.readback_coreai import Reader
from runtime.sessions import coreai as engine
from runtime.sessions.coreai import FILE, HASH, PROGRAM, CoreaiSession
from tests import random_models as models
from tests.parity import error_of, logits_of, quantize

SIZES = Sizes(context=128, step=64, image_tokens=100, audio_tokens=8)
SHALLOW: dict[str, Any] = dict(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])
BAR = 1e-5  # relative rms, as of a float twin: the engine does not round activations
installed = pytest.mark.skipif(
    find_spec("coreai_torch") is None, reason="Core AI is optional and not installed: pip install -e '.[coreai]'"
)


class Lowered:
    """A random model in transformers, and what was made of it."""

    def __init__(self, folder: Path, scheme: Scheme | None, **options: Any) -> None:
        from export.lowering.coreai_program import write_coreai

        self.folder = folder
        self.reference = models.random_model(models.random_config(**options))
        self.model, self.weights = quantize(self.reference, scheme)
        self.programs = write_coreai(self.model, self.weights, folder, SIZES)
        self.session = CoreaiSession(folder)


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    return Lowered(tmp_path_factory.mktemp("coreai"), INT4)


@installed
def test_text(lowered: Lowered) -> None:
    """Long past the window, so that rings wrap several times; in steps, whole, longer than a step, and by token."""
    prompt = models.text_prompt(120, 110)
    wanted = models.reference_logits(lowered.reference, prompt)
    for chunks in ([110], [13, 13, 34], []):
        assert error_of(lowered.session, prompt, chunks, wanted) < BAR


@installed
@pytest.mark.parametrize("images, clips", [(2, 0), (0, 1), (2, 1)])
def test_media(lowered: Lowered, images: int, clips: int) -> None:
    prompt = models.media_prompt(images, clips, tail=20)
    wanted = models.reference_logits(lowered.reference, prompt)
    for chunks in ([prompt.decode_from], models.chunks_around_images(prompt)):
        assert error_of(lowered.session, prompt, chunks, wanted) < BAR


@installed
def test_frames_of_a_video_among_images(lowered: Lowered) -> None:
    prompt = models.with_frames(models.media_prompt(3, 1, tail=20), [1])
    wanted = models.reference_logits(lowered.reference, prompt)
    assert error_of(lowered.session, prompt, [prompt.decode_from], wanted) < BAR


@installed
def test_control_images_that_are_not_told_apart_fail(lowered: Lowered, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = models.media_prompt(1, 0, tail=4)
    wanted = models.reference_logits(lowered.reference, prompt)
    monkeypatch.setattr(engine, "number_blocks", lambda vision: np.full(len(vision), -1))
    assert error_of(lowered.session, prompt, [prompt.decode_from], wanted) > 100 * BAR


@installed
def test_context_limit_leaves_the_sequence_intact(lowered: Lowered) -> None:
    prompt, session = models.text_prompt(120, 100), lowered.session
    wanted = logits_of(session, prompt, [100])
    session.reset()
    with pytest.raises(UserError, match=r"129 positions do not fit the context of 128"):
        session.prefill(models.text_prompt(129, 129).inputs)
    session.prefill(models.piece(prompt.inputs, 0, 119))
    with pytest.raises(UserError, match="context"):
        session.prefill(models.text_prompt(10, 10).inputs)
    assert np.allclose(session.decode(int(prompt.inputs.input_ids[119])), wanted[119], atol=1e-5)


@installed
def test_images_of_nearly_one_colour(lowered: Lowered) -> None:
    """The engine's plain sums would spoil their layer norms; what torch's own norm makes of it shows that."""
    from export.graph.embedders import embed_image

    assert lowered.model.image
    patches = 0.7 + 1e-3 * np.random.default_rng(3).random((9, models.PATCH_VALUES), np.float32)
    cells = np.stack(np.meshgrid(np.arange(3), np.arange(3)), -1).reshape(9, 2).astype(np.int64)
    ops = TorchOps(lambda name: torch.from_numpy(lowered.weights.dense(name)).double())
    wanted = embed_image(ops, torch.from_numpy(patches[None]).double(), torch.from_numpy(cells[None]),
                         lowered.model.image)[0]  # fmt: skip
    found = lowered.session._embed_image(patches, cells)
    assert models.relative_rms(torch.from_numpy(found).double(), wanted) < 3e-4  # torch's fp32: 2e-4


@installed
def test_int8_weights_and_caches(tmp_path: Path) -> None:
    """Against torch with the same int8 caches; a rounding that falls otherwise stays there for a while."""
    from export.lowering.coreai_program import write_coreai

    reference = models.random_model(models.random_config(vision=False, audio=False, **SHALLOW))
    model, weights = quantize(reference, INT8)
    prompt = models.text_prompt(60, 40)
    scales = calibrate_cache(model, weights, [prompt.inputs])
    write_coreai(model, weights, tmp_path, replace(SIZES, kv_scales=scales))
    eager = TorchProgram(model, weights, SIZES.context, SIZES.step, scales)
    wanted = torch.cat([eager.run(models.piece(prompt.inputs, start, stop))
                        for start, stop in ((0, 40), *((at, at + 1) for at in range(40, 60)))])  # fmt: skip
    session = CoreaiSession(tmp_path)
    require_supported(RECIPES["int4-kv8"], ["coreai"])
    assert {str(state.dtype) for state in session._states.values()} == {"int8"}
    assert error_of(session, prompt, [40], wanted) < 1e-3
    assert _errors(tmp_path, model, weights) == {}


@installed
def test_the_manifest_describes_what_the_engine_finds(lowered: Lowered) -> None:
    for role, program in lowered.programs.items():
        found = lowered.session._function(role).desc
        assert [port.name for port in program.inputs] == found.input_names
        assert [port.name for port in program.outputs] == found.output_names
        states = {name: found.state_descriptor(name) for name in found.state_names}
        assert {port.name: (tuple(port.shape), port.dtype) for port in program.states} == {
            name: (tuple(state.shape), str(state.dtype)) for name, state in states.items()
        }
    assert len(lowered.programs["decoder"].states) == 2 * 6  # keys and values of each layer


@installed
def test_unquantized_weights(tmp_path: Path) -> None:
    prompt = models.text_prompt(30, 20)
    lowered = Lowered(tmp_path, None, vision=False, audio=False, **SHALLOW)
    assert error_of(lowered.session, prompt, [20], models.reference_logits(lowered.reference, prompt)) < BAR
    assert _errors(tmp_path, lowered.model, lowered.weights) == {}


# Bytes


def _digest(name: str, weights: MemoryWeights) -> TensorDigest:
    """As the quantizer records it."""
    tensor = weights.tensors[name]
    if not isinstance(tensor, Packed):
        return TensorDigest(name=name, shape=tensor.shape, dtype="bfloat16", sha256=_bf16(tensor))
    shape = (len(tensor.codes), tensor.columns)
    return TensorDigest(name=name, shape=shape, dtype=f"int{tensor.scheme.bits}", group=tensor.scheme.group,
                        sha256=digest_of(iter([tensor.codes])), scales_sha256=_bf16(tensor.scales))  # fmt: skip


def _bf16(values: np.ndarray) -> str:
    return digest_of(narrow(iter([values.reshape(-1)]), "bfloat16"))


def _errors(folder: Path, model: Model, weights: MemoryWeights) -> dict[str, str]:
    names = [name for name in weights.tensors if name != "lm_head.weight"]  # one with the embedding
    found = readback_coreai.differences(folder, [_digest(name, weights) for name in names])
    return {difference.name: difference.reason for difference in found}


@installed
def test_every_weight_is_in_the_file(lowered: Lowered) -> None:
    assert _errors(lowered.folder, lowered.model, lowered.weights) == {}


@installed
def test_control_one_flipped_bit(lowered: Lowered, tmp_path: Path) -> None:
    name = "model.language_model.layers.0.mlp.down_proj.weight"
    packed = lowered.weights.tensors[name]
    assert isinstance(packed, Packed)
    for stored, reason in ((packed.codes ^ 0x88, "codes not found"), (packed.scales, "scales not found")):
        shutil.copytree(lowered.folder, tmp_path / reason)
        program = tmp_path / reason / PROGRAM
        data = bytearray(program.read_bytes())
        assert data.count(stored.tobytes()) == 1  # our very codes
        data[data.index(stored.tobytes()) + 2] ^= 0x10
        program.write_bytes(data)
        assert _errors(tmp_path / reason, lowered.model, lowered.weights) == {name: reason}


@installed
def test_a_program_that_is_cut_short(lowered: Lowered, tmp_path: Path) -> None:
    shutil.copytree(lowered.folder, tmp_path / "cut")
    program = tmp_path / "cut" / PROGRAM
    program.write_bytes(program.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cut short"):
        _errors(tmp_path / "cut", lowered.model, lowered.weights)
    with pytest.raises(UserError, match="is damaged: export the bundle again"):
        CoreaiSession(tmp_path / "cut")


def test_numbers_of_the_file() -> None:
    """Examples of MLIR's encoding: one byte, two, and all nine."""
    for data, number in (([0x0D], 6), ([0x02, 0x08], 512), ([0, *(2**60).to_bytes(8, "little")], 2**60)):
        reader = Reader(np.array(data, np.uint8))
        assert (reader.number(), reader.left) == (number, 0)


# What a user meets


def test_a_folder_without_an_asset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.aimodel is missing"):
        CoreaiSession(tmp_path)
    with pytest.raises(UserError, match=r"main\.mlirb is missing"):
        readback_coreai.differences(tmp_path, [])


@pytest.mark.parametrize("missing", ["coreai-core", "coreai-torch"])
def test_missing_packages_are_named_before_any_work(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(package: str) -> str:
        if package == missing:
            raise PackageNotFoundError(package)
        return FORMATS["coreai"].optional[package]

    monkeypatch.setattr(packages, "version", found)
    with pytest.raises(UserError, match=rf"^{missing} is not installed: pip install {missing}==\S+$"):
        require_supported(RECIPES["int4"], ["coreai"])
    require_supported(RECIPES["int4"], ["coreml", "executorch"])


def test_the_optional_install_brings_what_is_asked_for() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    wanted = [f"{package}=={release}" for package, release in FORMATS["coreai"].optional.items()]
    assert project["optional-dependencies"]["coreai"] == wanted


def test_other_releases_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "version", lambda package: "0.9")
    says = r"^coreai-core 0\.9 is installed, artifacts are for 1\.0\.0b3: pip install coreai-core==1\.0\.0b3$"
    with pytest.raises(UserError, match=says):
        require_supported(RECIPES["int4"], ["coreai"])
    with pytest.raises(UserError, match=says):
        CoreaiSession(_empty_asset(tmp_path))


def test_an_engine_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PACKAGE", "coreai-of-another-world")
    with pytest.raises(UserError, match=r"^coreai-of-another-world is not installed: pip install"):
        CoreaiSession(_empty_asset(tmp_path))


def _empty_asset(folder: Path) -> Path:
    (folder / FILE).mkdir()
    (folder / PROGRAM).write_bytes(b"")
    (folder / HASH).write_bytes(sha256(b"").digest())
    return folder


def test_models_that_do_not_fit_the_memory_are_refused(tmp_path: Path) -> None:
    models.random_config().save_pretrained(tmp_path)
    require_memory(["coreai"], tmp_path)
    models.random_config(intermediate_size=10**12).save_pretrained(tmp_path)
    with pytest.raises(
        UserError, match=r"lowering to coreai takes 1\d{7}\.\d\d GB of memory, .* are free: leave coreai"
    ):
        require_memory(["coreai"], tmp_path)
    require_memory(["onnx", "coreml"], tmp_path)  # which stream


def test_an_export_that_does_not_fit_begins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "coreai", replace(FORMATS["coreai"], memory=1e12, optional={}))
    request = Request("ios", "tiny", "int4", ["coreai"], 512, False, tmp_path / "build", tmp_path / "dist", [])
    with pytest.raises(UserError, match="lowering to coreai takes"):
        export(request)
    assert not list(tmp_path.iterdir())
