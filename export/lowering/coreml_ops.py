"""The vocabulary as a Core ML program, written with the MIL builder.

Heads are [1, heads, T, head_dim]. Shapes are static. Masks, rotations and cache slots are inputs that the host
computes (runtime/sessions/coreml_host.py); caches are states, laid out as `manifest.Attention` says. Norms run in fp32,
and so do products with dense weights and the stream that layers add to, which goes to 1e5 in a Gemma 3 of 270M, and
fp16 only to 65504; all else runs in the dtype of activations.

Weights go by their names in the checkpoint with "_" for ".": `NAME` is a constant, or a constexpr_blockwise_shift_scale
of constants `NAME_codes` and `NAME_scales`. A linear of many rows is cut, and its parts are called `NAME_0`, `NAME_1`.
A dense matrix of fp32 is `NAME`; where fp16 `NAME_halves` hold it exactly, a constexpr_cast of them, in units of
`NAME_unit`, by which what comes of it is multiplied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Var, types
from numpy.typing import NDArray

from export.config import FULL, SLIDING, Layer
from export.lowering.coreml_weights import (
    SMALLEST,
    Blob,
    codes_of,
    dense_blob,
    exact_unit,
    halves_blob,
    scales_of,
    zeros,
)
from export.weights import Packed, Weights
from runtime.errors import UserError
from runtime.manifest import Attention

FP16, FP32, INT32 = types.fp16, types.fp32, types.int32
NAMES = {FP16: "fp16", FP32: "fp32"}
STATE = FP16  # Core ML allows no other, whatever else is computed in
STREAM = FP32  # what layers add to, and norms put out
KINDS = {SLIDING: "sliding", FULL: "full"}  # of layers, as inputs and states are called
LARGEST_LINEAR = 16384  # rows: the longest axis that all of Core ML's backends take


@dataclass(frozen=True)
class Step:
    """What attention takes from outside: the inputs of a function, by name, and where its layers' caches lie."""

    tokens: int  # T
    inputs: dict[str, Var]
    attention: dict[str, Attention]  # by "sliding" and "full"
    owners: dict[str, list[int]]  # by the same, layers in the order of their rows in the state

    def of(self, layer: Layer) -> Attention:
        return self.attention[KINDS[layer.kind]]

    def row(self, layer: Layer) -> int:
        """Of its keys; values come next."""
        owners = self.owners[KINDS[layer.kind]]
        if layer.cache not in owners:
            raise UserError("Core ML packages cannot share a cache between them (num_kv_shared_layers)")
        return 2 * owners.index(layer.cache)


class MilOps:
    """Vocabulary[Var]. `blobs` collects what is to be written in place of the program's placeholders."""

    def __init__(self, weights: Weights, dtype: type, blobs: dict[str, Blob], step: Step | None = None) -> None:
        """
        Args:
            dtype: of activations, FP16 or FP32.
        """
        self.weights = weights
        self.dtype = dtype
        self.blobs = blobs
        self._step = step
        self._states: dict[str, Var] = {}  # as they stand at this point of the program

    @property
    def step(self) -> Step:
        """Descriptions without attention need none."""
        assert self._step is not None
        return self._step

    def weight(self, name: str) -> Var:
        return _cast(self._dense(name), self.dtype)

    def linear(self, x: Var, module: str) -> Var:
        name = f"{module}.weight"
        packed = self.weights.packed(name)
        if packed is None:
            weight, unit = self._matrix(name)
            return _cast(_times(self._product(_cast(x, FP32), weight), unit), self.dtype)
        starts = range(0, len(packed.codes), LARGEST_LINEAR)
        x = _cast(x, self.dtype)
        if len(starts) == 1:
            return self._product(x, self._expanded(name, packed))
        parts = (packed.rows(start, start + LARGEST_LINEAR) for start in starts)
        weights = (self._expanded(f"{name}.{i}", part) for i, part in enumerate(parts))
        return mb.concat(values=[self._product(x, weight) for weight in weights], axis=-1)

    def _product(self, x: Var, weight: Var) -> Var:
        """With a bias of zeros, as one is written anyway: linears of a size share it."""
        rows, wide = weight.shape[0], weight.dtype is FP32
        bias = self._constant(f"zeros.{NAMES[weight.dtype]}.{rows}", zeros(rows, wide))
        return mb.linear(x=x, weight=weight, bias=bias)

    def embed(self, ids: Var, module: str) -> Var:
        raise NotImplementedError("the host looks rows up: Core ML would expand the table on the heap")

    def grid_embed(self, cells: Var, table: str) -> Var:
        """In the table as it is, [rows, 2, width], row x is at 2 x and row y at 2 y + 1."""
        stored, unit = self._matrix(table)
        places = mb.add(x=mb.mul(x=mb.maximum(x=cells, y=np.int32(0)), y=np.int32(2)), y=np.array([0, 1], np.int32))
        found = _times(mb.gather(x=stored, indices=places, axis=0), unit)
        valid = mb.cast(x=mb.greater_equal(x=cells, y=np.int32(0)), dtype="fp32")
        found = mb.mul(x=found, y=mb.expand_dims(x=valid, axes=[-1]))
        return _cast(mb.reduce_sum(x=found, axes=[-2], keep_dims=False), self.dtype)

    def rms_norm(self, x: Var, module: str | None, eps: float, offset: float = 0) -> Var:
        wide = _cast(x, FP32)
        mean = mb.reduce_mean(x=mb.mul(x=wide, y=wide), axes=[-1], keep_dims=True)
        normed = mb.mul(x=wide, y=mb.rsqrt(x=mean, epsilon=np.float32(eps)))
        if module:
            weight = self._dense(f"{module}.weight")
            normed = mb.mul(x=normed, y=mb.add(x=weight, y=np.float32(offset)) if offset else weight)
        return _cast(normed, STREAM)

    def layer_norm(self, x: Var, module: str, eps: float) -> Var:
        gamma, beta = self._dense(f"{module}.weight"), self._dense(f"{module}.bias")
        normed = mb.layer_norm(x=_cast(x, FP32), axes=[-1], gamma=gamma, beta=beta, epsilon=np.float32(eps))
        return _cast(normed, self.dtype)

    def add(self, a: Var, b: Var) -> Var:
        a, b = _alike(a, b)
        return mb.add(x=a, y=b)

    def multiply(self, a: Var, b: Var) -> Var:
        a, b = _alike(a, b)
        return mb.mul(x=a, y=b)

    def scale(self, x: Var, factor: float) -> Var:
        return mb.mul(x=x, y=types.nptype_from_builtin(self.dtype)(factor))

    def gelu_tanh(self, x: Var) -> Var:
        return mb.gelu(x=x, mode="TANH_APPROXIMATION")

    def softcap(self, x: Var, cap: float) -> Var:
        """By the cap itself, which is exact in fp16; its reciprocal is not."""
        return self.scale(mb.tanh(x=mb.real_div(x=x, y=types.nptype_from_builtin(self.dtype)(cap))), cap)

    def split_heads(self, x: Var, heads: int) -> Var:
        _, tokens, width = x.shape
        return mb.transpose(x=mb.reshape(x=x, shape=[1, tokens, heads, width // heads]), perm=[0, 2, 1, 3])

    def keep_wanted(self, x: Var) -> Var:
        """All of them: the host hands the head the one row it wants."""
        return x

    def attend(self, q: Var, k: Var | None, v: Var | None, layer: Layer) -> Var:
        q = _cast(q, self.dtype)
        if k is not None and v is not None:
            k, v = _cast(k, self.dtype), _cast(v, self.dtype)
            self._extend(mb.concat(values=[self._rotate(k, layer), v], axis=0), layer)
        keys, values = mb.split(x=_cast(self._cached(layer), self.dtype), num_splits=2, axis=0)
        grouped = [1, layer.kv_heads, layer.group * self.step.tokens, -1]
        scores = mb.matmul(x=mb.reshape(x=self._rotate(q, layer), shape=grouped), y=keys, transpose_y=True)
        found = mb.matmul(x=mb.reshape(x=self._softmax(scores, layer), shape=grouped), y=values)
        return self._merge_heads(found, layer)

    def _softmax(self, scores: Var, layer: Layer) -> Var:
        """[1, kv_heads, group * T, slots] -> [1, query_heads, T, slots]"""
        scores = mb.reshape(x=scores, shape=[1, layer.query_heads, self.step.tokens, scores.shape[-1]])
        scores = scores if layer.scale == 1 else self.scale(scores, layer.scale)
        return mb.softmax(x=mb.add(x=scores, y=self.step.inputs[self.step.of(layer).mask]), axis=-1)

    def _merge_heads(self, found: Var, layer: Layer) -> Var:
        """[1, kv_heads, group * T, head_dim] -> [1, T, query_heads * head_dim]"""
        heads = mb.reshape(x=found, shape=[1, layer.query_heads, self.step.tokens, layer.head_dim])
        width = layer.query_heads * layer.head_dim
        return mb.reshape(x=mb.transpose(x=heads, perm=[0, 2, 1, 3]), shape=[1, self.step.tokens, width])

    def _rotate(self, x: Var, layer: Layer) -> Var:
        names, inputs = self.step.of(layer), self.step.inputs
        left, right = mb.split(x=x, num_splits=2, axis=-1)
        turned = mb.concat(values=[self.scale(right, -1), left], axis=-1)
        return mb.add(x=mb.mul(x=x, y=inputs[names.cos]), y=mb.mul(x=turned, y=inputs[names.sin]))

    def _cached(self, layer: Layer) -> Var:
        """[2, kv_heads, slots, head_dim]: what the owner of the layer's cache has written up to now."""
        row, state = self.step.row(layer), self._states[self.step.of(layer).state]
        return mb.slice_by_index(x=state, begin=[row, 0, 0, 0], end=[row + 2, *state.shape[1:]])

    def _extend(self, new: Var, layer: Layer) -> None:
        """Writes [2, kv_heads, T, head_dim] into the layer's rows of the state.

        A state is read once, and each update continues from the last: coremltools would merge repeated reads.
        """
        name = self.step.of(layer).state
        state = self.step.inputs[name]
        before = self._states[name] if name in self._states else mb.read_state(input=state)
        written = self._written(before, self.step.row(layer), _cast(new, STATE), self.step.of(layer))
        self._states[name] = mb.coreml_update_state(state=state, value=written)

    def _written(self, state: Var, row: int, new: Var, names: Attention) -> Var:
        _, heads, slots, width = state.shape
        if names.write is None or names.keep is None or self.step.tokens == 1:
            first = self.step.inputs[names.slot]
            begin = mb.concat(values=[_ints(row, 0), first, _ints(0)], axis=0)
            last = mb.add(x=first, y=_ints(self.step.tokens))
            end = mb.concat(values=[_ints(row + 2, heads), last, _ints(width)], axis=0)
            return mb.slice_update(x=state, update=new, begin=begin, end=end)
        begin, end = [row, 0, 0, 0], [row + 2, heads, slots, width]
        kept = mb.mul(x=mb.slice_by_index(x=state, begin=begin, end=end), y=self.step.inputs[names.keep])
        placed = mb.matmul(x=self.step.inputs[names.write], y=new)
        return mb.slice_update(x=state, update=mb.add(x=kept, y=placed), begin=begin, end=end)

    def _expanded(self, name: str, packed: Packed) -> Var:
        data = self._constant(f"{name}.codes", codes_of(packed))
        scales = self._constant(f"{name}.scales", scales_of(packed, wide=self.dtype is FP32))
        return mb.constexpr_blockwise_shift_scale(data=data, scale=scales, name=_plain(name))

    def _dense(self, name: str) -> Var:
        """fp32. A handful of values stays in the program."""
        values = self.weights.dense(name)
        if values.size < SMALLEST:
            return mb.const(val=values, name=_plain(name))
        return self._constant(name, dense_blob(self.weights, name, values.shape))

    def _matrix(self, name: str) -> tuple[Var, Var | None]:
        """fp32 [n, columns], and the unit of what it holds if that is not 1. Core ML widens it when it loads."""
        values = self.weights.dense(name)
        shape, unit = values.reshape(-1, values.shape[-1]).shape, exact_unit(values)
        if unit is None:
            return self._constant(name, dense_blob(self.weights, name, shape)), None
        halves = self._constant(f"{name}.halves", halves_blob(self.weights, name, shape, unit))
        wide = mb.constexpr_cast(source_val=halves, output_dtype="fp32", name=_plain(name))
        return wide, mb.const(val=np.float32(unit), name=_plain(f"{name}.unit"))

    def _constant(self, name: str, blob: Blob) -> Var:
        """The functions of a package share it by its weight id."""
        name = _plain(name)
        self.blobs[name] = blob
        constant = mb.const(val=blob.placeholder(), name=name)
        constant.op.weight_id = name
        return constant


def of_kind(layers: Sequence[Layer], kind: str) -> list[Layer]:
    """`kind` is "sliding" or "full"."""
    return [layer for layer in layers if KINDS[layer.kind] == kind]


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def _times(x: Var, unit: Var | None) -> Var:
    return x if unit is None else mb.mul(x=x, y=unit)


def _cast(x: Var, dtype: type) -> Var:
    return x if x.dtype == dtype else mb.cast(x=x, dtype=NAMES[dtype])


def _alike(a: Var, b: Var) -> tuple[Var, Var]:
    """Of two dtypes, both in the wider."""
    return (a, b) if a.dtype == b.dtype else (_cast(a, FP32), _cast(b, FP32))
