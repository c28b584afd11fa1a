"""Who sees whom: the rule in plain Python, against the masks that each backend makes, over random steps."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.config import FULL, SLIDING, Layer, SpecialTokens
from export.lowering.onnx_graph import DataFile, Graph
from export.lowering.onnx_ops import BOOL, FLOAT, HIDDEN
from export.lowering.onnx_ops import Step as OnnxStep
from export.lowering.torch_ops import Cache, Step
from runtime.manifest import Attention, Host, Table
from runtime.sessions.coreml_host import Call, Inputs, inputs_of, plan_calls

IMAGE = 7
CONTEXT, LONGEST = 64, 12
GARBAGE, UNWRITTEN = 9999, -1  # in slots of a cache
LAYER = Layer(
    index=0, name="layer", kind=SLIDING, eps=1e-6, query_heads=1, kv_heads=1, head_dim=8, scale=1.0,
    inverse_frequencies=(1.0,) * 4, window=5, image_blocks=True, cache=0,
)  # fmt: skip


@dataclass(frozen=True)
class Sequence:
    """Steps over consecutive positions; `blocks` numbers the image of each, -1 for text."""

    steps: list[int]
    blocks: list[int]
    window: int


def visible(query: int, key: int, sequence: Sequence, layer: Layer) -> bool:
    """The rule: causal, or of the same image in a layer that opens images; and within the window."""
    same_image = layer.image_blocks and sequence.blocks[query] == sequence.blocks[key] != -1
    within = layer.window is None or query - key < layer.window
    return (key <= query or same_image) and within


@st.composite
def sequences(draw: st.DrawFn) -> Sequence:
    """An image never crosses the edge of a step."""
    steps = draw(st.lists(st.integers(1, LONGEST), min_size=1, max_size=8).filter(lambda found: sum(found) <= CONTEXT))
    blocks: list[int] = []
    for count in steps:
        length = draw(st.integers(0, count))
        start = draw(st.integers(0, count - length))
        blocks += [-1] * start + [len(blocks)] * length + [-1] * (count - start - length)
    return Sequence(steps, blocks, draw(st.integers(1, 20)))


@given(sequences(), st.booleans(), st.booleans())
def test_torch(sequence: Sequence, opens_images: bool, slides: bool) -> None:
    """Every slot of the ring, after it has wrapped too."""
    layer = replace(LAYER, window=sequence.window if slides else None, image_blocks=opens_images and slides)
    slots = Cache(layer, CONTEXT, LONGEST, None).slots
    holds = [-1] * slots
    at = 0
    for count in sequence.steps:
        positions = torch.arange(at, at + count)
        step = Step(positions, torch.tensor(sequence.blocks[at : at + count]), torch.nn.ModuleDict())
        for position in range(at, at + count):
            holds[position % slots] = position
        seen = step.seen(layer, slots)
        for row, query in enumerate(range(at, at + count)):
            wanted = {key for key in range(at + count) if visible(query, key, sequence, layer)}
            assert {holds[slot] for slot in range(slots) if seen[row, slot]} == wanted
        at += count


def bias_session(folder: Path, window: int) -> onnxruntime.InferenceSession:
    """The bias of a sliding layer, and how many positions are kept, as a graph of its own."""
    with DataFile(folder / "model.data") as data:
        graph = Graph("bias", data)
        step = OnnxStep(graph, SpecialTokens(IMAGE, None, None, 0))
        layer = replace(LAYER, window=window)
        kept = step.kept(layer, graph.input("cache", FLOAT, [1, 1, "slots", 8]))
        for value, name in (step._build_bias(layer, kept), "bias"), (kept.before, "before"), (kept.plain, "plain"):
            graph.node("Identity", value, outputs=[name])
        graph.output("bias", FLOAT, [1, 1, "step", "keys"])
        graph.output("before", 7, [1])
        graph.output("plain", BOOL, [1])
        graph.save(folder / "bias.onnx")
    return onnxruntime.InferenceSession(folder / "bias.onnx")


@settings(max_examples=60, deadline=None)
@given(sequences(), st.integers(0, 9))
def test_onnx(tmp_path_factory, sequence: Sequence, spare: int) -> None:  # type: ignore[no-untyped-def]
    """The keys of a step are those kept before it and its own, in order; without an image the plain way is taken."""
    session = bias_session(tmp_path_factory.mktemp("bias"), sequence.window)
    layer = replace(LAYER, window=sequence.window)
    cache = np.zeros((1, 1, sequence.window + spare, 8), np.float32)
    at = 0
    for count in sequence.steps:
        ids = np.array([[IMAGE if block >= 0 else 1 for block in sequence.blocks[at : at + count]]])
        given_ = {"input_ids": ids, "position_ids": np.arange(at, at + count)[None], "cache": cache,
                  "attention_mask": np.ones((1, at + count), np.int64)}  # fmt: skip
        bias, before, plain = session.run(None, given_)
        first = at - int(before[0])
        assert plain[0] == (IMAGE not in ids) and int(before[0]) >= min(at, sequence.window - 1)
        for row, query in enumerate(range(at, at + count)):
            wanted = {key for key in range(at + count) if visible(query, key, sequence, layer)}
            assert {first + column for column in np.flatnonzero(bias[0, 0, row] > HIDDEN / 2)} == wanted
        at += count


def coreml_host(sequence: Sequence, opens_images: bool, context: int) -> Host:
    """As the export describes layers, for prefills of LONGEST positions."""
    common: dict[str, Any] = dict(head_dim=8, inverse_frequencies=[1.0] * 4, cos="cos", sin="sin")
    sliding = Attention(state="s", slots=min(sequence.window + LONGEST, context), window=sequence.window, mask="mask_s",
                        image_blocks=opens_images, slot="slot_s", write="write", keep="keep", **common)  # fmt: skip
    full = Attention(state="f", slots=context + LONGEST, window=None, mask="mask_f", image_blocks=False, slot="slot_f",
                     write=None, keep=None, **common)  # fmt: skip
    table = Table(rows=1, columns=1, bits=32, codes="", scales=None, group=1)
    return Host(identity="", minimum_ios="", compute_units="cpuAndGPU", context=context, prefill=LONGEST, hidden=1,
                vocabulary=1, chunks=[], heads=[], embedding=table, embedding_scale=1, masked=-1e4,
                attention={"sliding": sliding, "full": full})  # fmt: skip


def coreml_write(cache: np.ndarray, call: Call, layers: Attention, inputs: Inputs) -> np.ndarray:
    """What the packages do: positions in slots, and GARBAGE for what padding writes."""
    rows = np.where(np.arange(call.length) < call.count, call.positions, GARBAGE)
    if layers.write and layers.keep and call.length > 1:
        return cache * inputs[layers.keep][0, 0, :, 0] + inputs[layers.write][0, 0] @ rows
    start = inputs[layers.slot][0]
    assert start + call.length <= len(cache), "Core ML refuses to write beyond the end"
    return np.concatenate([cache[:start], rows, cache[start + call.length :]])


@given(sequences(), st.booleans(), st.booleans())
def test_coreml(sequence: Sequence, opens_images: bool, tight: bool) -> None:
    """Every slot of every cache as the packages leave it, padding included, up to the end of a context too."""
    host = coreml_host(sequence, opens_images, max(sum(sequence.steps), LONGEST) if tight else CONTEXT)
    caches = {kind: np.full(layers.slots, UNWRITTEN) for kind, layers in host.attention.items()}
    at = 0
    for count in sequence.steps:
        (call,) = plan_calls(at, np.array(sequence.blocks[at : at + count]), host)
        inputs = inputs_of(call, host)
        for kind, layers in host.attention.items():
            caches[kind] = coreml_write(caches[kind], call, layers, inputs)
            layer = replace(LAYER, window=layers.window, image_blocks=layers.image_blocks)
            for row, query in enumerate(range(at, at + count)):
                wanted = [key for key in range(at + count) if visible(query, key, sequence, layer)]
                assert sorted(caches[kind][inputs[layers.mask][0, 0, row] == 0]) == wanted
        at += count


def test_control_the_rule_tells_kinds_of_layers_apart() -> None:
    sequence = Sequence([6], [-1, 0, 0, 0, -1, -1], 3)
    full = replace(LAYER, kind=FULL, window=None, image_blocks=False)
    sliding = replace(LAYER, window=3)
    assert visible(1, 3, sequence, sliding) and not visible(1, 3, sequence, full)
    assert visible(5, 0, sequence, full) and not visible(5, 0, sequence, sliding)
