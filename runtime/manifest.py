"""The schema of a bundle's `manifest.json`, which export, runtime and both apps share.

A bundle is a folder: one folder of artifacts per format, the checkpoint's tokenizer, template and processor files,
`goldens/`, and the manifest, which names every other file. Paths in it are relative and use forward slashes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from runtime.errors import UserError
from runtime.untrusted import read_object, require_inside

FORMAT_VERSION = 2
FILE = "manifest.json"
SCHEMA_FILE = "manifest.schema.json"
QUANTIZED = Path("build/quantized")  # where exports leave the checkpoints that bundles are made from
RECORD = "quantization.json"  # in such a checkpoint: what the quantizer did
LARGEST = 4 << 20  # bytes; the 12B's has a tenth, and faults in a manifest take thirty times their bytes to be told
AGAIN = "export the bundle again with this version"

Count = Annotated[int, Field(ge=0, lt=2**53)]  # that every JSON reader holds exactly, as JavaScript's
Positive = Annotated[int, Field(gt=0, lt=2**53)]
Shape = Annotated[tuple[Count, ...], Field(max_length=8)]
Listed = FailFast()  # a list is given up at its first fault: there may be as many as it has items
LoadOptions = dict[str, dict[str, bool | str]]  # of an engine's backends, by name
MediaKind = Literal["image", "audio", "video"]
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
    size: Count  # bytes
    sha256: str


class Port(Record):
    """An input or output of an artifact; a named axis is dynamic."""

    name: str
    dtype: str
    shape: Annotated[list[int | str], Listed]


class Program(Record):
    """One graph of an artifact."""

    file: str
    inputs: Annotated[list[Port], Listed]
    outputs: Annotated[list[Port], Listed]
    function: str | None = None  # by which it goes in a file that holds several
    states: Annotated[
        list[Port], Listed
    ] = []  # kept from call to call, zero at first; functions of one file share them


class Table(Record):
    """Rows that a host looks up itself, in files without headers, made for mapping: little-endian, row by row.

    Value j of a row is (code j - 2^(bits - 1)) * scale j // group. Of 4 bits, the code of an even j is the low half of
    a byte. With 32 bits the codes are the values, float32, and there are no scales.
    """

    rows: Positive
    columns: Positive
    bits: Literal[4, 8, 32]
    codes: str  # file: [rows, columns * bits / 8] bytes
    scales: str | None  # file: float16 [rows, columns / group]
    group: Positive  # columns that share a scale


class Attention(Record):
    """Layers of one kind, as their host sees them: the names of what it hands them, and what is in there.

    Their caches are rows of one state [2 * layers, kv_heads, slots, head_dim]: of layer i, keys in row 2i and values in
    2i + 1. Position p lies in slot p % slots.
    """

    state: str
    slots: Positive
    head_dim: Positive
    window: Positive | None  # positions a query sees, itself included; None: all before it
    image_blocks: bool  # positions of one image see each other
    inverse_frequencies: Annotated[list[float], Listed]  # rotary, head_dim / 2 of them
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
    context: Positive  # positions there is room for
    prefill: Positive  # positions of one call; an image is never split over two
    hidden: Positive
    vocabulary: Positive
    chunks: Annotated[list[str], Listed]  # files, in order, each with functions `decode` and `prefill`
    heads: Annotated[list[str], Listed]  # files, in order
    embedding: Table
    embedding_scale: float
    attention: dict[str, Attention]  # of the kinds of layers there are, `sliding` and `full`
    masked: float  # added to the scores of slots that must not be seen


class CacheMemory(Record):
    """Bytes of keys and values: full layers grow with the positions, rings of sliding layers do not."""

    fixed: Count
    per_position: Count

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
    eos: Annotated[list[int], Listed]
    pad: int
    suppress: Annotated[list[int], Listed]
    image: int | None
    audio: int | None
    video: int | None
    begin_image: int | None
    end_image: int | None
    begin_audio: int | None
    end_audio: int | None


class Marks(Record):
    """Text before and behind something."""

    begin: str
    end: str


class Medium(Record):
    """What stands for an image, a clip or a video, which the processor writes out for each image, clip or frame."""

    placeholder: str  # one in the prompt's text for each
    begin: str
    soft: str  # as often as there are soft tokens
    end: str


class ToolMarks(Record):
    """How tools are told of, called and answered: `begin`, the name, values between braces, `end`.

    Values are `key:value` between commas, sorted by key without regard to case. Strings stand between quotes, lists in
    brackets, objects in braces; numbers, true and false are plain. See `runtime/dialogue.py`.
    """

    declaration: Marks  # behind the text of the system turn
    call: Marks  # behind the text of a turn of the model's
    response: Marks
    opened: str  # behind calls in place of the turn's end: the first response is without it
    quote: str  # on both sides of a string


class Dialogue(Record):
    """The checkpoint's chat template as literal text, for apps: `runtime/dialogue.py` builds prompts of it.

    Export renders the template to find the pieces, and proves that they give what it gives.
    """

    begin: str
    turns: dict[Literal["system", "user", "model"], Marks]
    thinking: str  # first in the system turn, where thinking is switched on
    generation: str  # behind all turns: the model's begins
    generation_thinking: str  # the same where thinking is switched on
    trimmed: bool  # each part of a text loses the white space around it
    thought: Marks | None  # what earlier turns of the model's lose, marks included; None: nothing
    media: dict[MediaKind, Medium]
    order: Annotated[list[Literal["image", "video", "audio", "text"]], Listed]  # in which apps put parts of a turn
    tools: ToolMarks | None  # None: see `Manifest.undescribed`


class Sampling(Record):
    """The checkpoint's own generation defaults."""

    do_sample: bool
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    top_k: Count
    top_p: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Limits(Record):
    """How much goes in."""

    context: Positive  # positions
    sliding_window: Positive  # positions
    image_soft_tokens: Count | None  # per image
    audio_soft_tokens: Count | None  # per clip
    minimum_memory: Count  # bytes: weights as an engine holds them, and the cache at the full context


class TensorDigest(Record):
    """A weight as it left the quantizer. Artifacts store these very values, in the widths their engines want."""

    name: str  # of the module's parameter in the source checkpoint
    shape: Shape
    dtype: str  # of the source: "bfloat16"; of quantized codes "int4" or "int8"
    group: Positive | None = None  # inputs that share a scale; None: a whole row, or not quantized
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
    series: list[tuple[int, float]] | None = None  # what it was at each position, where the value sums that up


class Verification(Record):
    """What was measured, when the bundle was made."""

    ran: Annotated[list[str], Listed]  # names of checks
    skipped: dict[str, str]  # name of check to the reason
    reference: ReferenceKind = "none"  # that checks compared with
    measures: Annotated[list[Measure], Listed]
    passed: bool

    @property
    def compared(self) -> bool:
        """Whether what an engine says was held against what the model says."""
        return not {"goldens", "lowering"}.isdisjoint(self.ran)


class Manifest(Record):
    """All that a phone, a CI machine or another team needs to know of a bundle."""

    format_version: int
    target: str
    source: Source
    recipe: Recipe
    artifacts: dict[str, Artifact]
    files: Annotated[list[File], Listed]
    tokens: Tokens
    sampling: Sampling
    limits: Limits
    dialogue: Dialogue | None = None  # see `undescribed`
    undescribed: dict[str, str] = {}  # part of the chat template that `dialogue` leaves out, `all` or `tools`: why
    tensors: Annotated[list[TensorDigest], Listed]
    goldens: Annotated[list[Golden], Listed]
    tools: dict[str, str]  # package to version
    verification: Verification | None = None


def read_manifest(bundle: Path) -> Manifest:
    """Nothing but the manifest is opened, and whatever it names lies in the bundle.

    Raises:
        UserError: the folder is no bundle; its manifest is larger than LARGEST, of another version's schema, or
            names something outside.
    """
    path = bundle / FILE
    if not path.exists():
        raise UserError(f"{bundle} holds no {FILE}: name a folder that `make export` wrote under dist/")
    require_inside(bundle, FILE, AGAIN)
    found = read_object(path, AGAIN, LARGEST)
    _require_version(path, found.get("format_version"))
    try:
        manifest = Manifest.model_validate(found)
    except ValidationError as error:
        raise UserError(f"{path}: {_first(error)}; {AGAIN}") from None
    for name in dict.fromkeys(named_paths(manifest)):
        require_inside(bundle, name, AGAIN)
    return manifest


def _require_version(path: Path, found: object) -> None:
    """Before all else: a newer schema may differ in anything."""
    if not isinstance(found, int):
        raise UserError(f"{path} says no format_version: {AGAIN}")
    if found > FORMAT_VERSION:
        raise UserError(f"{path} was made by a newer version (format_version {found}, this one reads "
                        f"{FORMAT_VERSION}): update gemma4-edge")  # fmt: skip
    if found < FORMAT_VERSION:
        raise UserError(f"{path}: format_version {found}, this version reads {FORMAT_VERSION}; {AGAIN}")


def _first(error: ValidationError) -> str:
    """Where a manifest is wrong first, and how; telling a million faults would take gigabytes."""
    if (count := error.error_count()) > 1000:
        return f"{count} faults against the schema"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def named_paths(manifest: Manifest) -> Iterator[str]:
    """All that a reader might open: relative, with forward slashes. Artifacts lie in folders of their names."""
    yield from (file.path for file in manifest.files)
    for format_, artifact in manifest.artifacts.items():
        yield format_
        yield from (program.file for program in artifact.programs.values())
        yield from _host_paths(artifact.host) if artifact.host else ()
        options = (options.items() for options in (artifact.load_options or {}).values())
        yield from (str(value) for pairs in options for key, value in pairs if key.endswith("_path"))
    yield from (name for golden in manifest.goldens for name in (golden.file, golden.tensors))


def _host_paths(host: Host) -> Iterator[str]:
    yield from (*host.chunks, *host.heads, host.embedding.codes)
    yield from () if host.embedding.scales is None else (host.embedding.scales,)


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """The manifest and, beside it, its JSON Schema."""
    (bundle / SCHEMA_FILE).write_text(json.dumps(Manifest.model_json_schema(), indent=1) + "\n")
    (bundle / FILE).write_text(manifest.model_dump_json(indent=1) + "\n")
