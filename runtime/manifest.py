"""The schema of a bundle's `manifest.json`, which export, runtime and both apps share.

A bundle is a folder: one folder of artifacts per format, the checkpoint's tokenizer, template and processor files,
`goldens/`, and the manifest, which names every other file. Paths in it are relative and use forward slashes.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.errors import UserError

FORMAT_VERSION = 1
FILE = "manifest.json"
SCHEMA_FILE = "manifest.schema.json"
QUANTIZED = Path("build/quantized")  # where exports leave the checkpoints that bundles are made from
RECORD = "quantization.json"  # in such a checkpoint: what the quantizer did


LoadOptions = dict[str, dict[str, bool | str]]  # of an engine's backends, by name
ReferenceKind = Literal["none", "whole", "streamed"]  # transformers' model in memory, or loaded a layer at a time


class Record(BaseModel):
    """Frozen, and strict about unknown keys, so that a change of the schema cannot pass unseen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Record):
    """The checkpoint that everything was made from."""

    name: str
    revision: str | None  # commit on the model hub, where it came from there
    sha256: str  # of names, shapes and bytes of its weights' files
    model_type: str
    licence: str


class Recipe(Record):
    """How the weights were quantized."""

    name: str
    description: str
    bits_per_weight: float  # scales included, over all weights
    kv_bits: Literal[8, 32]  # of the keys and values in the cache


class File(Record):
    """One file of the bundle."""

    path: str
    size: int  # bytes
    sha256: str


class Port(Record):
    """An input or output of an artifact; a named axis is dynamic."""

    name: str
    dtype: str
    shape: list[int | str]


class Program(Record):
    """One graph of an artifact."""

    file: str
    inputs: list[Port]
    outputs: list[Port]
    function: str | None = None  # by which it goes in a file that holds several
    states: list[Port] = []  # kept from call to call, zero at first; functions of one file share them


class Table(Record):
    """Rows that a host looks up itself, in files without headers, made for mapping: little-endian, row by row.

    Value j of a row is (code j - 2^(bits - 1)) * scale j // group. Of 4 bits, the code of an even j is the low half of
    a byte. With 32 bits the codes are the values, float32, and there are no scales.
    """

    rows: int
    columns: int
    bits: Literal[4, 8, 32]
    codes: str  # file: [rows, columns * bits / 8] bytes
    scales: str | None  # file: float16 [rows, columns / group]
    group: int  # columns that share a scale


class Attention(Record):
    """Layers of one kind, as their host sees them: the names of what it hands them, and what is in there.

    Their caches are rows of one state [2 * layers, kv_heads, slots, head_dim]: of layer i, keys in row 2i and values in
    2i + 1. Position p lies in slot p % slots.
    """

    state: str
    slots: int
    head_dim: int
    window: int | None  # positions a query sees, itself included; None: all before it
    image_blocks: bool  # positions of one image see each other
    inverse_frequencies: list[float]  # rotary, head_dim / 2 of them
    mask: str  # [1, 1, T, slots], added to scores: 0 where a query sees a slot, else Host.masked
    cos: str  # [1, 1, T, head_dim]: of position * inverse_frequencies, twice side by side
    sin: str
    slot: str  # int32 [1]: of the first position of a call, which writes slots one after another ...
    write: str | None  # ... unless it has these: [1, 1, slots, T], 1 where a slot takes a position of the call,
    keep: str | None  # and [1, 1, slots, 1], 0 at slots that take one


class Host(Record):
    """How to call Core ML packages, whose shapes are static and whose bookkeeping is the caller's.

    A prompt goes through all chunks in steps: `prefill` takes T = `prefill` positions, padded at the end, `decode` one.
    hidden_states [1, T, hidden] are rows of the embedding times its scale, soft tokens in place of media placeholders.
    The last position's row, as it leaves the last chunk, goes through all heads, whose logits follow one another.
    """

    identity: str  # of the weights; every package repeats it in its metadata, under `identity`
    minimum_ios: str
    compute_units: Literal["cpuAndGPU"]  # int4 in blocks does not run on the Neural Engine
    context: int  # positions there is room for
    prefill: int  # positions of one call; an image is never split over two
    hidden: int
    vocabulary: int
    chunks: list[str]  # files, in order, each with functions `decode` and `prefill`
    heads: list[str]  # files, in order
    embedding: Table
    embedding_scale: float
    attention: dict[str, Attention]  # of the kinds of layers there are, `sliding` and `full`
    masked: float  # added to the scores of slots that must not be seen


class CacheMemory(Record):
    """Bytes of keys and values: full layers grow with the positions, rings of sliding layers do not."""

    fixed: int
    per_position: int

    def at(self, positions: int) -> int:
        """Engines of static shapes make room for the whole context at once, others as the sequence grows."""
        return self.fixed + self.per_position * positions


class Artifact(Record):
    """What the bundle holds for one format: its programs by role (`decoder`, `embedding`, `vision`, `speech`).

    Core ML's decoder consists of `chunk_00.decode`, `chunk_00.prefill` and so on and of `head_00` and so on.
    """

    programs: dict[str, Program]
    cache: CacheMemory
    kv_scales: dict[int, tuple[float, float]] | None = None  # of keys and values by layer, where the cache is int8
    host: Host | None = None  # of Core ML
    # By the engine's backend, what to load it with; paths are relative to a folder that the app may write.
    load_options: LoadOptions | None = None


class Tokens(Record):
    """Ids with a meaning of their own."""

    bos: int
    eos: list[int]
    pad: int
    suppress: list[int]
    image: int | None
    audio: int | None
    video: int | None
    begin_image: int | None
    end_image: int | None
    begin_audio: int | None
    end_audio: int | None


class Sampling(Record):
    """The checkpoint's own generation defaults."""

    do_sample: bool
    temperature: float
    top_k: int
    top_p: float


class Limits(Record):
    """How much goes in."""

    context: int  # positions
    sliding_window: int  # positions
    image_soft_tokens: int | None  # per image
    audio_soft_tokens: int | None  # per clip
    minimum_memory: int  # bytes: weights as an engine holds them, and the cache at the full context


class TensorDigest(Record):
    """A weight as it left the quantizer. Artifacts store these very values, in the widths their engines want."""

    name: str  # of the module's parameter in the source checkpoint
    shape: tuple[int, ...]
    dtype: str  # of the source: "bfloat16"; of quantized codes "int4" or "int8"
    group: int | None = None  # inputs that share a scale; None: a whole row, or not quantized
    sha256: str  # of the values' bytes in that dtype, little-endian, row-major; of the packed codes where quantized
    scales_sha256: str | None = None  # of the scales as bfloat16


class Golden(Record):
    """A prompt with what the quantized reference makes of it: `goldens/<name>.json` and `.safetensors`."""

    name: str
    modality: Literal["text", "image", "audio", "long"]
    file: str
    tensors: str
    reference: ReferenceKind = "whole"  # that made it


class Measure(Record):
    """One figure of a verification, and its gate."""

    check: str  # files, bytes, template, goldens, lowering, quantization, preprocessing
    engine: str | None
    modality: str | None
    name: str
    value: float
    bound: float | None  # None: reported, not gated
    at_least: bool = False  # the bound is the smallest value that passes, not the largest
    passed: bool
    note: str = ""


class Verification(Record):
    """What was measured, when the bundle was made."""

    ran: list[str]  # names of checks
    skipped: dict[str, str]  # name of check to the reason
    reference: ReferenceKind = "none"  # that checks compared with
    measures: list[Measure]
    passed: bool


class Manifest(Record):
    """All that a phone, a CI machine or another team needs to know of a bundle."""

    format_version: int
    target: str
    source: Source
    recipe: Recipe
    artifacts: dict[str, Artifact]
    files: list[File]
    tokens: Tokens
    sampling: Sampling
    limits: Limits
    tensors: list[TensorDigest]
    goldens: list[Golden]
    tools: dict[str, str]  # package to version
    verification: Verification | None = None


def read_manifest(bundle: Path) -> Manifest:
    """Raises:
    UserError: the folder is no bundle, or its manifest is not of this version's schema.
    """
    path = bundle / FILE
    if not path.is_file():
        raise UserError(f"{bundle} holds no {FILE}: name a folder that `make export` wrote under dist/")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg']}; export the bundle again with this version") from None
    if manifest.format_version != FORMAT_VERSION:
        raise UserError(f"{path}: format_version {manifest.format_version}, this version reads {FORMAT_VERSION}")
    return manifest


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """The manifest and, beside it, its JSON Schema."""
    (bundle / SCHEMA_FILE).write_text(json.dumps(Manifest.model_json_schema(), indent=1) + "\n")
    (bundle / FILE).write_text(manifest.model_dump_json(indent=1) + "\n")
