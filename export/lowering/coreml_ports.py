"""What Core ML packages take and give, and what their host must know, for the manifest."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from coremltools.converters.mil.mil import Function, Var, types

from export.config import Layer, Model
from export.lowering.coreml_ops import KINDS, of_kind
from runtime.manifest import Attention, Host, Port, Program, Table

SHORTEST_PREFILL = 256  # positions
MULTIPLE = 32  # of which its length is one
MASKED = -1e4  # inside fp16
MINIMUM_IOS = "18.0"


@dataclass(frozen=True)
class Sizes:
    """What shapes are made for."""

    context: int  # positions
    prefill: int  # positions of one call
    image_tokens: int  # of one call of the image embedder
    audio_tokens: int  # of one call of the audio embedder

    @classmethod
    def of(cls, model: Model, checkpoint: Path, context: int) -> "Sizes":
        """A prefill holds any image that the checkpoint's processor makes."""
        path = checkpoint / "processor_config.json"
        processor = json.loads(path.read_text()) if path.exists() else {}
        image_tokens = processor.get("image_processor", {}).get("max_soft_tokens", 280)
        longest = max(SHORTEST_PREFILL, image_tokens if model.image else 0)
        prefill = min(-(-longest // MULTIPLE) * MULTIPLE, context)
        return cls(context, prefill, image_tokens, processor.get("audio_seq_length", 750))


def attention_of(layers: Sequence[Layer], sizes: Sizes) -> dict[str, Attention]:
    """By the kinds there are."""
    makers = {"sliding": _sliding, "full": _full}
    return {kind: makers[kind](alike[0], sizes) for kind in KINDS.values() if (alike := of_kind(layers, kind))}


def _sliding(layer: Layer, sizes: Sizes) -> Attention:
    """A ring that holds a window and a step."""
    assert layer.window
    return Attention(
        state="kv_cache_sliding", slots=min(layer.window + sizes.prefill, sizes.context), head_dim=layer.head_dim,
        window=layer.window, image_blocks=layer.image_blocks, inverse_frequencies=list(layer.inverse_frequencies),
        mask="causal_mask_sliding", cos="cos_s", sin="sin_s", slot="ring_pos", write="ring_write", keep="ring_keep",
    )  # fmt: skip


def _full(layer: Layer, sizes: Sizes) -> Attention:
    """A slot for each position, and for the padding of a last step."""
    return Attention(
        state="kv_cache_full", slots=sizes.context + sizes.prefill, head_dim=layer.head_dim, window=None,
        image_blocks=layer.image_blocks, inverse_frequencies=list(layer.inverse_frequencies),
        mask="causal_mask_full", cos="cos_f", sin="sin_f", slot="current_pos", write=None, keep=None,
    )  # fmt: skip


def describe_host(model: Model, sizes: Sizes, programs: dict[str, Program], embedding: Table, identity: str) -> Host:
    return Host(
        identity=identity,
        minimum_ios=MINIMUM_IOS,
        compute_units="cpuAndGPU",
        context=sizes.context,
        prefill=sizes.prefill,
        hidden=model.text.hidden,
        vocabulary=model.text.vocabulary,
        chunks=_files(programs, "chunk_"),
        heads=_files(programs, "head_"),
        embedding=embedding,
        embedding_scale=model.text.hidden**0.5,
        attention=attention_of(model.text.layers, sizes),
        masked=MASKED,
    )


def _files(programs: dict[str, Program], prefix: str) -> list[str]:
    """Of the roles that begin so, in their order, once."""
    return list(dict.fromkeys(program.file for role, program in programs.items() if role.startswith(prefix)))


def describe_function(file: str, function: Function, name: str | None = None) -> Program:
    """Of a package; with a name, where it holds several."""
    given = {
        kind: [var for var in function.inputs.values() if types.is_state(var.sym_type) == kind]
        for kind in (False, True)
    }
    return Program(file=file, function=name, inputs=list(_ports(given[False])), states=list(_ports(given[True])),
                   outputs=list(_ports(function.outputs)))  # fmt: skip


def _ports(values: Sequence[Var]) -> Iterator[Port]:
    for value in values:
        dtype = types.nptype_from_builtin(value.dtype).__name__
        yield Port(name=value.name, dtype=dtype, shape=list(value.shape))
