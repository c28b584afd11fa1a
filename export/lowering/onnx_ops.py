"""The vocabulary as an ONNX graph with ONNX Runtime's own operators.

Heads are [1, T, heads, head_dim]. Caches are inputs and outputs of the graph, [1, kv_heads, slots, head_dim], and may
share their memory. A full layer has a slot for every position of the context, or as many as there are so far. A
sliding layer has a fixed number, a little more than its window: the newest positions lie in its first slots, in order
(see `Step.kept`), which is the layout of GroupQueryAttention's `sliding_window_cache`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from export.config import Layer, SpecialTokens
from export.lowering.onnx_graph import NONE, Graph, Value
from export.weights import KvScales, Packed, Weights
from runtime.errors import UserError

FLOAT, INT64, INT32, INT8, BOOL = (
    TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.INT8, TensorProto.BOOL
)  # fmt: skip
FAST = 4  # accuracy level of MatMulNBits: activations are rounded to int8
LARGEST_BLOCK = 256  # of the kernels that are fast
HIDDEN = -1e9  # added to the score of a key that a query may not see


@dataclass(frozen=True)
class Kept:
    """What the caches of sliding layers hold before and after a step."""

    before: Value  # int64 [1], positions
    after: Value  # int64 [1]
    padding: Value  # int64 [8]: from the rows kept after a step to all slots
    lengths: tuple[Value, Value]  # as Step.lengths, of the rows kept before a step and its own
    plain: Value  # bool [1]: the engine's own windowed attention will do


class Step:
    """The inputs that say which tokens come and where they stand, and what is made of them once for all layers."""

    def __init__(self, graph: Graph, tokens: SpecialTokens) -> None:
        self.graph = graph
        self.tokens = tokens
        self._memory: dict[str, Any] = {}

    def once(self, name: str, build: Callable[[], Any]) -> Any:
        """What `build` adds to the graph, added at first use only."""
        if name not in self._memory:
            self._memory[name] = build()
        return self._memory[name]

    def input_ids(self) -> Value:
        """int64 [1, T]"""
        return self.graph.input("input_ids", INT64, [1, "step"])

    def positions(self) -> Value:
        """int64 [1, T], consecutive"""
        return self.graph.input("position_ids", INT64, [1, "step"])

    def total(self) -> Value:
        """int64 [1]: positions up to and with this step"""
        mask = self.graph.input("attention_mask", INT64, [1, "total"])
        return self.once("total", lambda: self.graph.node("Shape", mask, start=1))

    def past(self) -> Value:
        """int64 [1]: positions before this step"""
        node, positions = self.graph.node, self.positions()
        return self.once("past", lambda: node("Sub", self.total(), node("Shape", positions, start=1)))

    def lengths(self) -> tuple[Value, Value]:
        """int32 [1] total - 1 and int32 [] total, as GroupQueryAttention wants them"""
        return self.once("lengths", lambda: self._build_lengths(self.total()))

    def _build_lengths(self, total: Value) -> tuple[Value, Value]:
        node = self.graph.node
        last = node("Sub", total, self.graph.constant([1]))
        return node("Cast", last, to=INT32), node("Cast", node("Squeeze", total), to=INT32)

    def rotation(self, layer: Layer) -> tuple[Value, Value, Value]:
        """Row numbers int64 [1, T], cosines and sines [T, head_dim / 2] of this step's positions alone: a table of all
        positions would be hundreds of megabytes."""
        return self.once(f"rotation {layer.kind}", lambda: self._build_rotation(layer))

    def _build_rotation(self, layer: Layer) -> tuple[Value, Value, Value]:
        node = self.graph.node
        column = node("Transpose", node("Cast", self.positions(), to=FLOAT), perm=[1, 0])
        frequencies = np.array([layer.inverse_frequencies], np.float32)
        turns = node("Mul", column, self.graph.stored(f"inverse_frequencies.{layer.kind}", frequencies))
        rows = node("Sub", self.positions(), self.past())
        return rows, node("Cos", turns), node("Sin", turns)

    def vision(self) -> Value:
        """bool [1, T]: image and video tokens"""
        return self.once("vision", self._build_vision)

    def _build_vision(self) -> Value:
        node, constant, ids = self.graph.node, self.graph.constant, self.input_ids()
        image, video = self.tokens.image, self.tokens.video
        found = node("Equal", ids, constant(image))
        return found if video is None else node("Or", found, node("Equal", ids, constant(video)))

    def blocks(self) -> Value:
        """int64 [1, T]: the images of a step counted from 1, each over its own tokens; elsewhere 0"""
        return self.once("blocks", self._build_blocks)

    def _build_blocks(self) -> Value:
        node, constant = self.graph.node, self.graph.constant
        vision = node("Cast", self.vision(), to=INT64)
        shifted = node("Pad", vision, constant([0, 1, 0, -1]))
        starts = node("Greater", vision, shifted)
        return node("Mul", vision, node("CumSum", node("Cast", starts, to=INT64), constant(1)))

    def kept(self, layer: Layer, cache: Value) -> Kept:
        """With C slots and a window of W, the newest n - G * (max(n - W, 0) // G) of n positions are kept, where
        G = C - W + 1: slots are freed G at a time. So GroupQueryAttention has it; the long way must agree."""
        return self.once(f"kept {layer.window}", lambda: self._build_kept(layer, cache))

    def _build_kept(self, layer: Layer, cache: Value) -> Kept:
        node, constant = self.graph.node, self.graph.constant
        slots, window = node("Shape", cache, start=2, end=3), constant([layer.window])
        spare = node("Max", node("Sub", node("Add", slots, constant([1])), window), constant([1]))

        def rows(positions: Value) -> Value:
            evictions = node("Div", node("Max", node("Sub", positions, window), constant([0])), spare)
            return node("Sub", positions, node("Mul", evictions, spare))

        before, after = rows(self.past()), rows(self.total())
        padding = node("Concat", constant([0] * 6), node("Sub", slots, after), constant([0]), axis=0)
        plain = node("GreaterOrEqual", slots, window)
        if layer.image_blocks and self.tokens.image is not None:
            images = node("ReduceMax", self.blocks(), constant([1]), keepdims=0)
            plain = node("And", plain, node("Equal", images, constant([0])))
        seen = node("Add", before, node("Sub", self.total(), self.past()))
        return Kept(before, after, padding, self._build_lengths(seen), plain)

    def bias(self, layer: Layer, kept: Kept) -> Value:
        """[1, 1, T, kept before + T], added to scores: causal, but images see themselves whole, and all that within the
        window. A step that does without is spared it."""
        name = f"bias.{layer.window}"
        zero = self.graph.constant([[[[0]]]], np.float32)

        def unused() -> Sequence[tuple[Value, int]]:
            return [(self.graph.node("Identity", zero), FLOAT)]

        def build() -> Sequence[tuple[Value, int]]:
            return [(self._build_bias(layer, kept), FLOAT)]

        return self.once(name, lambda: self.graph.choose(kept.plain, unused, build, [name]))

    def _build_bias(self, layer: Layer, kept: Kept) -> Value:
        node, constant = self.graph.node, self.graph.constant
        query = node("Unsqueeze", self._range(self.past()), constant([1]))
        key = self._range(node("Sub", self.past(), kept.before))
        seen = node("LessOrEqual", key, query)
        if layer.image_blocks and self.tokens.image is not None:
            seen = node("Or", seen, self._same_image(kept))
        seen = node("And", seen, node("Greater", key, node("Sub", query, constant(layer.window))))
        bias = node("Where", seen, constant(0, np.float32), constant(HIDDEN, np.float32))
        return node("Unsqueeze", bias, constant([0, 1]))

    def _same_image(self, kept: Kept) -> Value:
        """bool [T, kept before + T]"""
        node, constant = self.graph.node, self.graph.constant
        mine = node("Transpose", self.blocks(), perm=[1, 0])
        others = node("Pad", self.blocks(), node("Concat", constant([0]), kept.before, constant([0, 0]), axis=0))
        return node("And", node("Equal", mine, others), node("Greater", others, constant(0)))

    def _range(self, start: Value) -> Value:
        """int64 [total - start], from int64 [1]"""
        node = self.graph.node
        return node("Range", node("Squeeze", start), node("Squeeze", self.total()), self.graph.constant(1))


class OnnxOps:
    """Vocabulary[Value]"""

    def __init__(self, graph: Graph, weights: Weights, tokens: SpecialTokens,
                 kv_scales: KvScales | None = None) -> None:  # fmt: skip
        self.graph = graph
        self.weights = weights
        self.step = Step(graph, tokens)
        self.kv_scales = kv_scales

    def weight(self, name: str) -> Value:
        return self.graph.stored(name, self.weights.dense(name))

    def linear(self, x: Value, module: str) -> Value:
        name = f"{module}.weight"
        packed = self.weights.packed(name)
        if packed is None:
            return self.graph.microsoft("FusedMatMul", x, self.weight(name), transB=1)
        rows, block = len(packed.codes), block_size(packed)
        codes = self._codes(packed, name, (rows, packed.columns // block, block * packed.scheme.bits // 8), "blocks")
        return self.graph.microsoft("MatMulNBits", x, codes, self._scales(packed, name), N=rows, K=packed.columns,
                                    bits=packed.scheme.bits, block_size=block, accuracy_level=FAST)  # fmt: skip

    def embed(self, ids: Value, module: str) -> Value:
        name = f"{module}.weight"
        packed = self.weights.packed(name)
        if packed is None:
            return self.graph.node("Gather", self.weight(name), ids)
        codes, scales = self._codes(packed, name, packed.codes.shape, "rows"), self._scales(packed, name)
        return self.graph.microsoft("GatherBlockQuantized", codes, ids, scales, gather_axis=0, quantize_axis=1,
                                    bits=packed.scheme.bits, block_size=block_size(packed))  # fmt: skip

    def _codes(self, packed: Packed, name: str, shape: Sequence[int], view: str) -> Value:
        """The packed bytes as they are, seen in the shape that an operator wants."""
        return self.graph.streamed(f"{name}.{view}", np.uint8, shape, lambda: [packed.codes], key=f"{name}.codes")

    def _scales(self, packed: Packed, name: str) -> Value:
        shape = len(packed.codes), packed.columns // block_size(packed)
        return self.graph.streamed(f"{name}.scales", np.float32, shape, lambda: _spread(packed, shape[1]))

    def grid_embed(self, cells: Value, table: str) -> Value:
        rows = self.weights.dense(table)
        return self.add(*(self._axis_embed(cells, axis, f"{table}.{axis}", rows[:, axis]) for axis in (0, 1)))

    def _axis_embed(self, cells: Value, axis: int, name: str, rows: NDArray[np.float32]) -> Value:
        node, constant = self.graph.node, self.graph.constant
        cell = node("Gather", cells, constant(axis), axis=2)
        found = node("Gather", self.graph.stored(name, rows), node("Max", cell, constant(0)))
        valid = node("Cast", node("GreaterOrEqual", cell, constant(0)), to=FLOAT)
        return node("Mul", found, node("Unsqueeze", valid, constant([-1])))

    def rms_norm(self, x: Value, module: str | None, eps: float, offset: float = 0) -> Value:
        if module:
            return self._weighted_rms_norm(x, f"{module}.weight", eps, offset)
        mean = self.graph.node("ReduceMean", self.multiply(x, x), self.graph.constant([-1]))
        return self.graph.node("Div", x, self.graph.node("Sqrt", self.add(mean, self.graph.constant(eps, np.float32))))

    def _weighted_rms_norm(self, x: Value, name: str, eps: float, offset: float) -> Value:
        """One node with the addition that made x, if that came just before: ONNX Runtime does not fuse these itself."""
        last = self.graph.nodes[-1] if self.graph.nodes else None
        if last is None or last.op_type != "Add" or last.output[0] != x:
            weight = self._shifted(name, offset)
            return self.graph.node("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=eps, stash_type=1)
        self.graph.nodes.pop()
        weight = self._shifted(name, offset)
        return self.graph.microsoft("SkipSimplifiedLayerNormalization", *last.input, weight, epsilon=eps,
                                    outputs=[f"normed.{x}", NONE, NONE, x])  # fmt: skip

    def _shifted(self, name: str, offset: float) -> Value:
        """A weight plus a constant: ONNX Runtime adds them once, when it opens the graph."""
        weight = self.weight(name)
        return self.add(weight, self.graph.constant(offset, np.float32)) if offset else weight

    def layer_norm(self, x: Value, module: str, eps: float) -> Value:
        weight, bias = self.weight(f"{module}.weight"), self.weight(f"{module}.bias")
        return self.graph.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps)

    def add(self, a: Value, b: Value) -> Value:
        return self.graph.node("Add", a, b)

    def multiply(self, a: Value, b: Value) -> Value:
        return self.graph.node("Mul", a, b)

    def scale(self, x: Value, factor: float) -> Value:
        return self.multiply(x, self.graph.constant(factor, np.float32))

    def gelu_tanh(self, x: Value) -> Value:
        return self.graph.node("Gelu", x, approximate="tanh")

    def softcap(self, x: Value, cap: float) -> Value:
        return self.scale(self.graph.node("Tanh", self.scale(x, 1 / cap)), cap)

    def split_heads(self, x: Value, heads: int) -> Value:
        return self.graph.node("Reshape", x, self.graph.constant([0, 0, heads, -1]))

    def keep_wanted(self, x: Value) -> Value:
        """[1, T, width] -> [1, 1, width]: engines ask for the logits after the last position alone."""
        return self.graph.node("Gather", x, self.graph.constant([-1]), axis=1)

    def attend(self, q: Value, k: Value | None, v: Value | None, layer: Layer) -> Value:
        if k is None or v is None:
            raise UserError("the ONNX graph cannot share a cache between layers (num_kv_shared_layers)")
        step = [self._rotate(q, layer.query_heads, layer), self._rotate(k, layer.kv_heads, layer), self._merge_heads(v)]
        attend = self._attend_window if layer.window else self._attend_all
        return attend(layer, step, *self._cache(layer))

    def _rotate(self, x: Value, heads: int, layer: Layer) -> Value:
        """Heads -> [1, T, heads * head_dim]"""
        merged, rotation = self._merge_heads(x), self.step.rotation(layer)
        return self.graph.microsoft("RotaryEmbedding", merged, *rotation, num_heads=heads)

    def _merge_heads(self, x: Value) -> Value:
        return self.graph.node("Reshape", x, self.graph.constant([0, 0, -1]))

    def _cache(self, layer: Layer) -> tuple[list[Value], list[Value]]:
        """Keys and values before and after a step."""
        dtype = INT8 if self.kv_scales else FLOAT
        shape = [1, layer.kv_heads, "window_slots" if layer.window else "slots", layer.head_dim]
        past = [self.graph.input(f"past_key_values.{layer.index}.{part}", dtype, shape) for part in ("key", "value")]
        present = [f"present.{layer.index}.{part}" for part in ("key", "value")]
        for name in present:
            self.graph.output(name, dtype, [*shape[:2], f"{shape[2]}_after", shape[3]])
        return past, present

    def _attend_all(self, layer: Layer, step: list[Value], past: list[Value], present: list[Value]) -> Value:
        outputs = [f"attended.{layer.index}", *present]
        return self._attention(layer, step, past, outputs, self.step.lengths())

    def _attend_window(self, layer: Layer, step: list[Value], past: list[Value], present: list[Value]) -> Value:
        """The engine's windowed attention is causal: steps with an image take the long way. So do caches with fewer
        slots than the window, which it refuses."""
        kept = self.step.kept(layer, past[0])
        bias, lengths = self.step.bias(layer, kept), self.step.lengths()
        dtype = INT8 if self.kv_scales else FLOAT
        kinds = FLOAT, dtype, dtype

        def plainly() -> Sequence[tuple[Value, int]]:
            outputs = [f"plain.{name}" for name in (f"attended.{layer.index}", *present)]
            self._attention(layer, step, past, outputs, lengths, local_window_size=layer.window, sliding_window_cache=1)
            return list(zip(outputs, kinds, strict=True))

        def with_images() -> Sequence[tuple[Value, int]]:
            return list(zip(self._attend_images(layer, step, past, kept, bias), kinds, strict=True))

        return self.graph.choose(kept.plain, plainly, with_images, [f"attended.{layer.index}", *present])

    def _attend_images(self, layer: Layer, step: list[Value], past: list[Value], kept: Kept,
                       bias: Value) -> list[Value]:  # fmt: skip
        """Attends over the kept rows and those of this step; then keeps the newest, padded to all slots."""
        node, constant = self.graph.node, self.graph.constant
        rows = [node("Slice", cache, constant([0]), kept.before, constant([2])) for cache in past]
        outputs = [f"seen.{layer.index}.{part}" for part in ("attended", "key", "value")]
        self._attention(layer, step, rows, outputs, kept.lengths, bias, causal=0)
        newest = node("Neg", kept.after)
        end = constant([np.iinfo(np.int64).max])
        caches = [node("Pad", node("Slice", cache, newest, end, constant([2])), kept.padding) for cache in outputs[1:]]
        return [outputs[0], *caches]

    def _attention(self, layer: Layer, step: list[Value], past: list[Value], outputs: list[Value],
                   lengths: tuple[Value, Value], bias: Value = NONE, **attributes: Any) -> Value:  # fmt: skip
        """GroupQueryAttention ignores the past unless all three outputs are named. It could rotate too, but only with
        tables of all positions up to the last."""
        inputs = [*step, *past, *lengths, NONE, NONE, NONE, bias, NONE]
        if self.kv_scales:
            inputs += [self.graph.constant([scale], np.float32) for scale in self.kv_scales[layer.index]]
            attributes |= {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
        return self.graph.microsoft("GroupQueryAttention", *inputs, outputs=outputs, num_heads=layer.query_heads,
                                    kv_num_heads=layer.kv_heads, scale=layer.scale, **attributes)  # fmt: skip


def block_size(packed: Packed) -> int:
    """Inputs that share a scale: a power of two, so that a row's only scale is stored once for each of its blocks."""
    columns = packed.columns
    return packed.scheme.group or min(columns & -columns, LARGEST_BLOCK)


def _spread(packed: Packed, blocks: int) -> Iterable[NDArray[np.float32]]:
    """Scales [out, blocks], some rows at a time."""
    repeats = blocks // packed.scales.shape[1]
    for start in range(0, len(packed.scales), 1 << 14):
        yield np.repeat(packed.scales[start : start + (1 << 14)], repeats, axis=1)
