"""Decode time and cache size against the length of the context, in both ONNX engines.

    python -m benchmarks.onnx_context [--longest 8192] [--layers 4]

Two random int4 decoders with the attention of Gemma 4 12B and narrow linears, so that attention is what is measured:
one of sliding layers alone, one of full layers alone. Compare figures of one run and one engine only: GenAI takes half
of the machine's cores unless told otherwise, onnxruntime all of them.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.measuring import memory
from export.config import FULL, SLIDING, Image, Layer, Model, SpecialTokens, Text
from export.lowering.onnx_genai import SPARE_SLOTS
from export.lowering.onnx_program import write_onnx
from export.schemes import INT4
from export.weights import Packed
from runtime.sessions.base import ModelInputs, Session
from runtime.sessions.genai import GenaiSession
from runtime.sessions.onnx import OnnxSession

HIDDEN, FEED_FORWARD, VOCABULARY, WINDOW = 256, 512, 512, 1024
CHUNK = 256  # positions of one prefill
STEPS = 24  # decoded at each length
ENGINES: dict[str, Callable[[Path], Session]] = {"plain": OnnxSession, "genai": GenaiSession}


@dataclass(frozen=True)
class Point:
    """One decoder in one engine at one length."""

    layers: str
    engine: str
    context: int
    milliseconds: float  # per token, median
    cache_bytes: int  # of one layer


class RandomWeights:
    """Weights of any name, of the shapes that the narrow decoder needs."""

    def __init__(self, layer: Layer) -> None:
        heads = layer.head_dim * layer.query_heads, layer.head_dim * layer.kv_heads
        self.shapes = {
            "q_proj": (heads[0], HIDDEN), "k_proj": (heads[1], HIDDEN), "v_proj": (heads[1], HIDDEN),
            "o_proj": (HIDDEN, heads[0]), "gate_proj": (FEED_FORWARD, HIDDEN), "up_proj": (FEED_FORWARD, HIDDEN),
            "down_proj": (HIDDEN, FEED_FORWARD), "embed_tokens": (VOCABULARY, HIDDEN),
            "q_norm": (layer.head_dim,), "k_norm": (layer.head_dim,), "patch_dense": (HIDDEN, HIDDEN),
            "embedding_projection": (HIDDEN, HIDDEN), "image": (4, 2, HIDDEN),
        }  # fmt: skip

    def dense(self, name: str) -> NDArray[np.float32]:
        if name.endswith("layer_scalar"):
            return np.ones(1, np.float32)
        shape = (HIDDEN,) if name.endswith("bias") else self.shapes.get(name.split(".")[-2], (HIDDEN,))
        return np.full(shape, shape[0] ** -0.25 if "q_norm" in name or "k_norm" in name else 1, np.float32)

    def packed(self, name: str) -> Packed | None:
        if name.startswith("image"):
            return None
        rows, columns = self.shapes[name.split(".")[-2]]
        random = np.random.default_rng(len(name))
        codes = random.integers(0, 256, (rows, columns // 2), np.uint8)
        return Packed(INT4, codes, np.full((rows, columns // 32), 0.2 * columns**-0.5, np.float32))


def decoder(kind: str, layers: int, context: int) -> Model:
    """Layers of one kind, all alike."""
    sliding = kind == SLIDING
    width = 256 if sliding else 512
    frequencies = tuple(1e4 ** (-2 * i / width) for i in range(width // 2))
    first = Layer(index=0, name="layers.0", kind=kind, eps=1e-6, query_heads=16, kv_heads=8 if sliding else 1,
                  head_dim=width, scale=1.0, inverse_frequencies=frequencies,
                  window=WINDOW if sliding else None, image_blocks=sliding, cache=0)  # fmt: skip
    stack = tuple(replace(first, index=i, name=f"layers.{i}", cache=i) for i in range(layers))
    text = Text(name="text", vocabulary=VOCABULARY, hidden=HIDDEN, layers=stack, softcap=30.0, head="text.embed_tokens",
                eps=1e-6, context=context)  # fmt: skip
    image = Image("image", patch_values=HIDDEN, eps=1e-6)  # GenAI opens no folder without one
    return Model(text, image, None, SpecialTokens(image=VOCABULARY - 1, audio=None, video=None, pad=0))


def measure(kind: str, engine: str, folder: Path, model: Model) -> Iterator[Point]:
    """Lets one sequence grow, and times a few tokens whenever it has doubled."""
    session = ENGINES[engine](folder)
    length = CHUNK
    while length <= model.text.context - STEPS:
        while session.position < length:
            prefill(session, length - session.position)
        held = cache_bytes(model.text.layers[0], length)
        yield Point(kind.removesuffix("_attention"), engine, length, decode_time(session), held)
        length *= 2


def prefill(session: Session, count: int) -> None:
    session.prefill(ModelInputs(np.arange(min(count, CHUNK), dtype=np.int64) + 1))


def decode_time(session: Session) -> float:
    """Milliseconds per token."""
    times = []
    for token in range(STEPS):
        start = time.perf_counter()
        session.decode(token + 1)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def cache_bytes(layer: Layer, length: int) -> int:
    """Of one layer's keys and values, as far as positions have reached it."""
    rows = min(length, layer.window + SPARE_SLOTS) if layer.window else length
    return 2 * 4 * layer.kv_heads * layer.head_dim * rows


def show(points: list[Point]) -> None:
    table = Table("layers", "engine", "context", "ms / token", "times first", "KV MiB / layer", title="Decode")
    shortest = {(point.layers, point.engine): point.milliseconds for point in reversed(points)}
    for point in points:
        ratio = point.milliseconds / shortest[point.layers, point.engine]
        table.add_row(point.layers, point.engine, str(point.context), f"{point.milliseconds:.2f}", f"{ratio:.2f}",
                      f"{point.cache_bytes / 2**20:.2f}")  # fmt: skip
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=8192, help="longest context, in positions")
    parser.add_argument("--layers", type=int, default=4, help="layers of each decoder")
    arguments = parser.parse_args()
    points: list[Point] = []
    for kind in SLIDING, FULL:
        with tempfile.TemporaryDirectory() as name:
            model = decoder(kind, arguments.layers, arguments.longest + STEPS)
            write_onnx(model, RandomWeights(model.text.layers[0]), Path(name), Path(name), model.text.context)
            for engine in ENGINES:
                points += measure(kind, engine, Path(name), model)
    show(points)
    print(json.dumps({"points": [asdict(point) for point in points], **memory()}))


if __name__ == "__main__":
    main()
