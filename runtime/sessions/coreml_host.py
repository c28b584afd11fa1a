"""What the host of Core ML packages computes for each call, from the manifest's `Host` record alone.

Swift code on a phone does the same. A call takes `count` consecutive positions, padded to the `length` that its
function was built for. What padding rows compute is thrown away, and what they write lies in slots that no position
has reached: full layers overwrite it when one does, rings are never given it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import UserError
from runtime.manifest import Attention, Host, Table
from runtime.sessions.steps import NONE, steps

Inputs = dict[str, NDArray]
CODES, SCALES = np.dtype("u1"), np.dtype("<f2")


class Embedding:
    """Rows of a table in files, mapped."""

    def __init__(self, table: Table, bundle: Path) -> None:
        """Raises:
        UserError: a file is missing or of another size than the table says.
        """
        self.table = table
        self._codes = _map(bundle / table.codes, CODES, table.rows)
        self._scales = _map(bundle / table.scales, SCALES, table.rows) if table.scales else None

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """int [T] -> [T, columns]"""
        codes = self._codes[ids]
        if self._scales is None:
            return codes.view("<f4")
        if self.table.bits == 4:
            codes = np.stack([codes & 15, codes >> 4], -1).reshape(len(ids), -1)
        groups = codes.astype(np.float32).reshape(len(ids), -1, self.table.group) - 2 ** (self.table.bits - 1)
        return (groups * self._scales[ids].astype(np.float32)[..., None]).reshape(len(ids), -1)


def _map(path: Path, dtype: np.dtype, rows: int) -> NDArray:
    """[rows, columns]"""
    size = path.stat().st_size if path.is_file() else 0
    if not size or size % (rows * dtype.itemsize):
        raise UserError(f"{path} is missing or cut short: export the bundle again")
    return np.memmap(path, dtype, "r").reshape(rows, -1)


@dataclass(frozen=True)
class Call:
    """One call of all chunks."""

    start: int  # first position
    blocks: NDArray[np.int64]  # [count]: the image that each position belongs to, or NONE
    length: int  # positions that the function takes

    @property
    def count(self) -> int:
        return len(self.blocks)

    @property
    def function(self) -> str:
        return "decode" if self.length == 1 else "prefill"

    @property
    def positions(self) -> NDArray[np.int64]:
        """[length]"""
        return self.start + np.arange(self.length)


def plan_calls(start: int, blocks: NDArray[np.int64], host: Host) -> Iterator[Call]:
    """Cuts positions from `start` on into calls.

    Raises:
        UserError: an image is longer than a prefill.
    """
    for begin, end in steps(blocks != NONE, host.prefill):
        yield Call(start + begin, blocks[begin:end], 1 if end - begin == 1 else host.prefill)


def inputs_of(call: Call, host: Host) -> Inputs:
    """All inputs but hidden_states, by name, floats as fp32; each chunk takes those that its function names."""
    inputs: Inputs = {}
    for layers in host.attention.values():
        inputs |= {layers.mask: np.where(visible(call, layers), 0, host.masked).astype(np.float32)[None, None]}
        inputs |= _rotation(call, layers) | {layers.slot: np.array([call.start % layers.slots], np.int32)}
        inputs |= _placement(call, layers)
    return inputs


def held(call: Call, layers: Attention) -> NDArray[np.int64]:
    """[slots]: the position in each slot once the call has written its own; negative: none yet."""
    slot, last = np.arange(layers.slots), call.start + call.count - 1
    return slot + (last - slot) // layers.slots * layers.slots


def survives(layers: Attention, position: int, end: int) -> bool:
    """Whether what a position sees is still there when all up to `end` has been written."""
    return not layers.window or end <= layers.slots or end - position <= layers.slots - layers.window


def visible(call: Call, layers: Attention) -> NDArray[np.bool_]:
    """[length, slots]: causal or of the same image, within the window, and ever written."""
    in_slot = held(call, layers)
    distance = call.positions[:, None] - in_slot
    seen = distance >= 0
    if layers.image_blocks:
        seen |= _same_image(call, in_slot)
    if layers.window:
        seen &= distance < layers.window
    return seen & (in_slot >= 0)


def _same_image(call: Call, in_slot: NDArray[np.int64]) -> NDArray[np.bool_]:
    """An image lies within one call, so only positions of this call can share one."""
    own = np.concatenate([call.blocks, np.full(call.length - call.count, NONE)])
    index = in_slot - call.start
    block = np.where((index >= 0) & (index < call.length), own[np.clip(index, 0, call.length - 1)], NONE)
    return (own[:, None] == block) & (block != NONE)


def _rotation(call: Call, layers: Attention) -> Inputs:
    """In fp32, as the reference computes it."""
    frequencies = np.array(layers.inverse_frequencies, np.float32)
    turns = call.positions[:, None].astype(np.float32) * np.concatenate([frequencies, frequencies])
    return {layers.cos: np.cos(turns)[None, None], layers.sin: np.sin(turns)[None, None]}


def _placement(call: Call, layers: Attention) -> Inputs:
    """Which position of the call goes to which slot of a ring, and which slots keep what they have."""
    if layers.write is None or layers.keep is None or call.length == 1:
        return {}
    slots = (call.start + np.arange(call.count)) % layers.slots
    write, keep = np.zeros((layers.slots, call.length), np.float32), np.ones((layers.slots, 1), np.float32)
    write[slots, np.arange(call.count)] = 1
    keep[slots] = 0
    return {layers.write: write[None, None], layers.keep: keep[None, None]}
