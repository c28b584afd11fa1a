"""No remedy changes a byte of a `.pte`, every weight comes back out of it, and every linear is in a delegate."""

import gc
import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir.backend.canonical_partitioners import group_partitioner
from torch import fx, nn
from torch.export import ExportedProgram
from torch.fx.passes.infra import partitioner

from export.lowering import executorch_patches, executorch_program, executorch_streams
from export.lowering.executorch_ops import whole
from export.lowering.executorch_patches.decompositions import fewer_traces
from export.lowering.executorch_patches.delegates import prepared_once
from export.lowering.executorch_patches.dependencies import lazy_dependencies
from export.lowering.executorch_patches.stored_once import SEGMENT_ALIGNMENT
from export.lowering.executorch_patches.weightless import weightless
from export.lowering.executorch_program import export_methods, lower
from export.lowering.executorch_streams import Sources, Stream
from export.schemes import INT4, INT8, Scheme
from export.weights import FloatTwin, MemoryWeights, Packed
from runtime.errors import UserError
from runtime.manifest import TensorDigest
from runtime.readback_executorch import ExecutorchWeights, differences, undelegated
from runtime.sessions.executorch import DATA_FILE, FILE, ExecutorchSession
from tests import random_models as models
from tests.executorch_models import SIZES, Lowered, constants
from tests.executorch_models import lower as lower_model
from tests.parity import logits_of, quantize

EMBEDDING = "model.language_model.embed_tokens.weight"
ALIKE: dict[str, Any] = dict(
    num_hidden_layers=3, layer_types=["sliding_attention", "sliding_attention", "full_attention"]
)
PAIR: dict[str, Any] = dict(num_hidden_layers=2, layer_types=["full_attention"] * 2)
LAYER: dict[str, Any] = dict(num_hidden_layers=1, layer_types=["full_attention"])
Remedy = Callable[[Sources], AbstractContextManager[None]]
REMEDIES: dict[str, Remedy] = {
    "fewer traces": lambda sources: fewer_traces(),
    "delegates once": prepared_once,
    "lazy dependencies": lambda sources: lazy_dependencies(),
}
SPARED: dict[str, tuple[Any, str]] = {  # what each does less often, or never
    "fewer traces": (ExportedProgram, "run_decompositions"),
    "delegates once": (XnnpackBackend, "preprocess"),
    "lazy dependencies": (partitioner, "_DependencyViewer"),
}


@pytest.fixture(scope="module", params=[INT4, INT8], ids=["int4", "int8"])
def lowered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """Three layers, two of them alike; media, whose embedders are not quantized, beside one of the schemes."""
    media: dict[str, Any] = {} if request.param is INT4 else dict(vision=False, audio=False)
    return Lowered(tmp_path_factory.mktemp("lowered"), request.param, **media, **ALIKE)


def test_streams_and_remedies_together_write_the_stock_bytes(lowered: Lowered) -> None:
    """Stock: whole weights in memory, nothing patched but that what is shared is stored once."""
    methods = export_methods(lowered.model, whole(lowered.weights), SIZES)
    assert lower(methods, constants(lowered.model)).buffer == (lowered.folder / FILE).read_bytes()


def test_each_remedy_writes_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And spares the work that it is there to spare."""
    reference = models.random_model(models.random_config(vision=False, audio=False, **PAIR))
    calls = {name: counted(monkeypatch, *work) for name, work in SPARED.items()}
    model, weights = quantize(reference, INT4)

    def write(*remedies: Remedy) -> bytes:
        sources = Sources(weights)
        with weightless(sources):
            for remedy in remedies:
                with remedy(sources):
                    return lower(export_methods(model, sources.loader(), SIZES), {}).buffer
            return lower(export_methods(model, sources.loader(), SIZES), {}).buffer

    plain, stock = write(), {name: len(some) for name, some in calls.items()}
    for name, remedy in REMEDIES.items():
        before = {name: len(some) for name, some in calls.items()}
        assert write(remedy) == plain, name
        spared = {other for other, some in calls.items() if len(some) - before[other] < stock[other]}
        assert spared == {name}, "control: what the others are there for is done as often as without them"


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[str]:
    """Grows with each call from now on."""
    usual, calls = getattr(owner, name), list[str]()

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return usual(*arguments, **options)

    static = isinstance(vars(owner)[name], staticmethod)
    monkeypatch.setattr(owner, name, staticmethod(call) if static else call)
    return calls


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x + 1, x * 2
        return (left * right).relu() - left


@pytest.mark.parametrize("module", [partitioner, group_partitioner])
def test_lazy_dependencies_are_those_of_the_partitioner(module: Any) -> None:
    """Of fx's and of ExecuTorch's, which has a class of its own."""
    graph, stock = fx.symbolic_trace(Branching()), module._DependencyViewer
    with lazy_dependencies():
        lazy = module._DependencyViewer(graph)
    assert type(lazy) is not stock and module._DependencyViewer is stock
    for node in graph.graph.nodes:
        assert lazy.downstreams_of(node) == set(stock(graph).downstreams_of(node))


def test_a_tied_embedding_is_stored_once(lowered: Lowered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes its bytes off the file, and changes no bit of what comes out."""
    packed = lowered.weights.packed(EMBEDDING)
    assert packed
    monkeypatch.setattr(executorch_program, "stored_once", nullcontext)
    twice = ExecutorchSession(lower_model(lowered.model, lowered.weights, tmp_path))
    table, scales = packed.codes.nbytes, packed.scales.nbytes // (2 if packed.scheme.group else 1)
    saved = (tmp_path / FILE).stat().st_size - (lowered.folder / FILE).stat().st_size
    assert 0 <= saved - table - scales < 2 * SEGMENT_ALIGNMENT
    ids, prompt = torch.arange(lowered.model.text.vocabulary)[None, :64], models.text_prompt(30, 20)
    rows = torch.from_numpy(packed.rows(0, 64).dense) * lowered.model.text.hidden**0.5
    wanted = logits_of(twice, prompt, [20])
    for session in lowered.session, twice:
        assert torch.equal(session._embedding.execute([ids])[0][0, :, :-1], rows)
        assert all(np.array_equal(found, wanted[at]) for at, found in logits_of(session, prompt, [20]).items())


def test_a_tied_embedding_is_stored_once_in_a_data_file(shallow_apart: Lowered) -> None:
    packed = shallow_apart.weights.packed(EMBEDDING)
    assert packed
    data = (shallow_apart.folder / DATA_FILE).read_bytes()
    assert (
        data.count(packed.codes.tobytes()) == 1
        and packed.codes.tobytes() not in (shallow_apart.folder / FILE).read_bytes()
    )


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executorch_patches, "VERSION", "0.0.1")
    with pytest.raises(UserError, match=r"the lowering knows the internals of 0\.0\.1"), fewer_traces():
        pass


def digests(lowered: Lowered) -> list[TensorDigest]:
    """As the quantizer would record them."""
    return [_digest(name, tensor) for name, tensor in lowered.weights.tensors.items() if "lm_head" not in name]


def _digest(name: str, tensor: np.ndarray | Packed) -> TensorDigest:
    def narrow(values: np.ndarray) -> str:
        return hashlib.sha256(torch.from_numpy(values).bfloat16().view(torch.uint16).numpy().tobytes()).hexdigest()

    if isinstance(tensor, Packed):
        return TensorDigest(name=name, shape=(len(tensor.codes), tensor.columns), dtype=f"int{tensor.scheme.bits}",
                            group=tensor.scheme.group, sha256=hashlib.sha256(tensor.codes.tobytes()).hexdigest(),
                            scales_sha256=narrow(tensor.scales))  # fmt: skip
    return TensorDigest(name=name, shape=tensor.shape, dtype="bfloat16", sha256=narrow(tensor))


def test_every_weight_comes_back(lowered: Lowered, shallow_apart: Lowered) -> None:
    for made in lowered, shallow_apart:
        assert differences(made.folder, digests(made)) == []


def test_control_one_flipped_bit_is_found(lowered: Lowered, tmp_path: Path) -> None:
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    packed = lowered.weights.packed(name)
    assert packed
    codes = executorch_streams.linear_codes(packed.scheme, lambda: packed).to_bytes()
    data = bytearray((lowered.folder / FILE).read_bytes())
    data[data.index(codes) + len(codes) // 2] ^= 0x10
    (tmp_path / FILE).write_bytes(data)
    assert [difference.name for difference in differences(tmp_path, digests(lowered))] == [name]


def test_weights_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A float twin's are in memory, and caches of torch and ExecuTorch outlive the lowering."""
    reference = models.random_model(models.random_config(vision=False, audio=False, vocab_size=1021, **LAYER))
    model, weights = quantize(reference, INT4)

    def left() -> int:
        gc.collect()
        tables = [x for x in gc.get_objects() if type(x) is torch.Tensor and x.shape == (1021, model.text.hidden)]
        return len(tables)

    before = left()
    lower_model(model, FloatTwin(weights), tmp_path)
    assert left() == before
    monkeypatch.setattr(executorch_program, "_forget", lambda: None)
    lower_model(model, FloatTwin(weights), tmp_path)
    assert left() > before, "control: nobody empties the caches"
    monkeypatch.undo()
    executorch_program._forget()


def test_every_linear_is_delegated(lowered: Lowered) -> None:
    assert undelegated(ExecutorchWeights(lowered.folder), digests(lowered)) == []
    calls = ExecutorchWeights(lowered.folder).operators()
    assert calls["XnnpackBackend"] == 6 * 3 + 1, "products of attention have delegates of their own"
    assert not {"aten::mm.out", "aten::addmm.out", "aten::linear.out"} & set(calls)


def test_control_a_lost_delegation_is_found(lowered: Lowered, monkeypatch: pytest.MonkeyPatch) -> None:
    """All delegates of another backend."""
    monkeypatch.setattr("runtime.readback_executorch.BACKEND", "OtherBackend")
    lost = undelegated(ExecutorchWeights(lowered.folder), digests(lowered))
    assert len(lost) == 7 * 3 - 1 + 1  # the full layer has no v_proj; the tied embedding is the head


def test_weights_apart_give_the_same_logits(shallow_apart: Lowered, shallow: Lowered) -> None:
    assert (shallow_apart.folder / FILE).stat().st_size < (shallow_apart.folder / DATA_FILE).stat().st_size
    prompt = models.media_prompt(1, 1, tail=20)
    wanted = logits_of(shallow.session, prompt, [prompt.decode_from])
    found = logits_of(shallow_apart.session, prompt, [prompt.decode_from])
    assert all(np.array_equal(found[at], logits) for at, logits in wanted.items())


def test_an_absent_data_file_is_named(shallow_apart: Lowered, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes((shallow_apart.folder / FILE).read_bytes())
    with pytest.raises(UserError, match=DATA_FILE):
        ExecutorchSession(tmp_path)


def test_a_data_file_of_another_build_is_named(shallow_apart: Lowered, executorch_bundle: Path, tmp_path: Path) -> None:
    """Weights go by the hash of their content, so those of another model are never taken for this one's."""
    (tmp_path / FILE).write_bytes((shallow_apart.folder / FILE).read_bytes())
    (tmp_path / DATA_FILE).write_bytes((executorch_bundle / "executorch" / DATA_FILE).read_bytes())
    with pytest.raises(UserError, match=f"if it has a {DATA_FILE}, that must be of the same export"):
        ExecutorchSession(tmp_path)


@pytest.mark.parametrize("scheme", [INT4, INT8])
def test_streams_in_chunks(scheme: Scheme, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executorch_streams, "CHUNK", 100)
    codes = np.random.default_rng(0).integers(0, 256, (50, 32), np.uint8)
    packed = Packed(scheme, codes, np.ones((50, 64 // 32 if scheme.group else 1), np.float32))
    stream = executorch_streams.linear_codes(packed.scheme, lambda: packed)
    whole_bytes = stream.to_bytes()
    assert len(stream) == len(whole_bytes) == 1600
    assert stream.prefix(70) == whole_bytes[:70]
    assert stream.sha256() == hashlib.sha256(whole_bytes).digest()
    assert isinstance(stream, Stream)


def test_stand_ins_take_no_memory() -> None:
    codes = np.zeros((64, 32), np.uint8)
    loader = Sources(MemoryWeights({"a.weight": Packed(INT4, codes, np.ones((64, 2), np.float32))})).loader()
    weight: Any = loader.linear("a.weight")
    assert sum(part.untyped_storage().nbytes() for part in (weight.qdata, weight.scale, weight.zero_point)) < 16
