"""What the host of Core ML packages computes for each call of scripted prompts, and rows of embeddings."""

from base64 import b64encode
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from runtime.errors import UserError
from runtime.manifest import Attention, Host, Table
from runtime.sessions.coreml_host import Call, Embedding, inputs_of, plan_calls
from runtime.sessions.steps import number_blocks

CONTEXT, PREFILL, WINDOW, DIM = 48, 8, 5, 8
IMAGE = True
BITS: tuple[Literal[4, 8, 32], ...] = (4, 8, 32)
# By name, prompts one after another in one sequence: runs of text (a number) and of images (IMAGE, number).
Part = int | tuple[bool, int]
RUNS: list[list[Part]] = [[2, (IMAGE, 3), 1, (IMAGE, 2)], [3], [(IMAGE, 4)]]
SCRIPTS: dict[str, list[list[Part]]] = {
    "text": [[3]],
    "text, then decoding": [[5], [1], [1], [1]],
    "as long as a call": [[8], [1]],
    "chunked, the ring wraps": [[30], [1], [1]],
    "decoding past the ring": [[1]] * 20,
    "an image": [[2, (IMAGE, 4), 3], [1]],
    "an image at a bound": [[6, (IMAGE, 6), 4], [1]],
    "an image as long as a call": [[3, (IMAGE, 8), 2], [1]],
    "two images": [[(IMAGE, 3), 1, (IMAGE, 3), 2]],
    "several turns": [[7], [1], [1], [4, (IMAGE, 5), 1], [1], [12], [1]],
    "up to the end": [[40], [7], [1]],
}


def coreml() -> dict[str, Any]:
    return {
        "about": "host: the record. scripts: blocks of positions -> calls and their inputs. tables: ids -> rows.",
        "host": host().model_dump(mode="json"),
        "blocks": [_blocks_case(parts) for parts in RUNS],
        "too_long": _refusal(),
        "scripts": [{"name": name, "calls": _calls(prompts)} for name, prompts in SCRIPTS.items()],
        "tables": [_table(bits) for bits in BITS],
    }


def host() -> Host:
    """Small, of both kinds of layers, as the export describes them."""
    inverse = [float(np.float32(10_000.0 ** (-2 * i / DIM))) for i in range(DIM // 2)]
    partial = [*inverse[:2], 0.0, 0.0]
    sliding = Attention(state="sliding", slots=WINDOW + PREFILL, head_dim=DIM, window=WINDOW, image_blocks=True,
                        inverse_frequencies=inverse, mask="sliding_mask", cos="sliding_cos", sin="sliding_sin",
                        slot="sliding_slot", write="sliding_write", keep="sliding_keep")  # fmt: skip
    full = Attention(state="full", slots=CONTEXT + PREFILL, head_dim=DIM, window=None, image_blocks=False,
                     inverse_frequencies=partial, mask="full_mask", cos="full_cos", sin="full_sin", slot="full_slot",
                     write=None, keep=None)  # fmt: skip
    table = Table(
        rows=4, columns=32, bits=4, codes="coreml/embedding.codes", scales="coreml/embedding.scales", group=32
    )
    return Host(identity="0" * 64, minimum_ios="18.0", compute_units="cpuAndGPU", context=CONTEXT, prefill=PREFILL,
                hidden=32, vocabulary=4, chunks=[], heads=[], embedding=table, embedding_scale=4.0, masked=-30000.0,
                attention={"sliding": sliding, "full": full})  # fmt: skip


def _vision(parts: list[Part]) -> np.ndarray:
    """bool [T]"""
    return np.concatenate(
        [np.full(part if isinstance(part, int) else part[1], not isinstance(part, int)) for part in parts]
    )


def _blocks_case(parts: list[Part]) -> dict[str, Any]:
    """Which image each position belongs to, counted in one prompt; -1 outside."""
    vision = _vision(parts)
    return {"vision": vision.tolist(), "blocks": number_blocks(vision).tolist()}


def _refusal() -> dict[str, Any]:
    blocks = number_blocks(_vision([2, (IMAGE, PREFILL + 1)]))
    try:
        list(plan_calls(0, blocks, host()))
    except UserError as error:
        return {"blocks": blocks.tolist(), "error": str(error)}
    raise AssertionError("an image longer than a call was taken")


def _calls(prompts: list[list[Part]]) -> list[dict[str, Any]]:
    found, start = [], 0
    for prompt, parts in enumerate(prompts):
        blocks = number_blocks(_vision(parts))
        found += [{"prompt": prompt} | _call(call) for call in plan_calls(start, blocks, host())]
        start += len(blocks)
    return found


def _call(call: Call) -> dict[str, Any]:
    inputs = inputs_of(call, host())
    kinds = {kind: _kind(call, layers, inputs) for kind, layers in host().attention.items()}
    return {"start": call.start, "count": call.count, "length": call.length, "function": call.function,
            "blocks": call.blocks.tolist(), "inputs": kinds}  # fmt: skip


def _kind(call: Call, layers: Attention, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """`visible`: of each row, ranges [first, end) of slots with 0 in the mask. `write`: of each position, its slot."""
    mask = inputs[layers.mask][0, 0]
    assert set(np.unique(mask)) <= {0, host().masked}
    found: dict[str, Any] = {"slot": int(inputs[layers.slot][0]), "visible": [_ranges(row == 0) for row in mask],
                             "cos": _ends(inputs[layers.cos]), "sin": _ends(inputs[layers.sin]),
                             "write": None, "keep": None}  # fmt: skip
    if layers.write in inputs and layers.keep in inputs:
        write = inputs[layers.write][0, 0]
        found["write"] = [int(column.argmax()) for column in write.T[: call.count]]
        assert write.sum() == call.count
        found["keep"] = _ranges(inputs[layers.keep][0, 0, :, 0] == 1)
    return found


def _ranges(marked: np.ndarray) -> list[list[int]]:
    """Runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(int)))
    return edges.reshape(-1, 2).tolist()


def _ends(rows: np.ndarray) -> list[list[float]]:
    """The first row and the last."""
    return rows[0, 0, [0, -1]].tolist()


def _table(bits: Literal[4, 8, 32]) -> dict[str, Any]:
    """Random codes, and scales as they are stored."""
    rng, rows, columns, group = np.random.default_rng(bits), 6, 64, 32
    with TemporaryDirectory() as name:
        folder = Path(name)
        values = rng.normal(size=(rows, columns)).astype("<f4")
        codes = values.tobytes() if bits == 32 else rng.bytes(rows * columns * bits // 8)
        scales = b"" if bits == 32 else rng.uniform(0.01, 0.1, (rows, columns // group)).astype("<f2").tobytes()
        (folder / "codes").write_bytes(codes)
        (folder / "scales").write_bytes(scales)
        table = Table(
            rows=rows, columns=columns, bits=bits, codes="codes", scales="scales" if scales else None, group=group
        )
        ids = np.array([5, 0, 3, 3])
        found = Embedding(table, folder).rows(ids)
    return {"table": table.model_dump(mode="json"), "codes": b64encode(codes).decode(),
            "scales": b64encode(scales).decode(), "ids": ids.tolist(), "rows": found.tolist()}  # fmt: skip
