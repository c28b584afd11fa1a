"""Geometry of a model: all that descriptions and backends know of it."""

from dataclasses import dataclass

SLIDING = "sliding_attention"
FULL = "full_attention"


@dataclass(frozen=True)
class Layer:
    """One decoder layer: all that a description or a backend may want to know about it."""

    index: int
    name: str  # prefix of its weights in the checkpoint
    kind: str  # SLIDING or FULL
    eps: float

    query_heads: int
    kv_heads: int
    head_dim: int
    scale: float  # of the attention scores
    inverse_frequencies: tuple[float, ...]  # rotary, head_dim / 2 of them
    window: int | None  # positions a query sees, itself included; None: all before it
    image_blocks: bool  # tokens of one image see each other
    cache: int  # index of the layer whose keys and values it attends to: its own, or an earlier one's

    keys_are_values: bool = False  # the value is the key projection's output
    normalizes_values: bool = False
    scales_output: bool = False
    norm_offset: float = 0.0  # added to the weights of its norms

    @property
    def owns_cache(self) -> bool:
        return self.cache == self.index

    @property
    def group(self) -> int:
        """Query heads per key-value head."""
        return self.query_heads // self.kv_heads


@dataclass(frozen=True)
class Text:
    """The decoder and its token embedding."""

    name: str  # prefix of its weights in the checkpoint
    vocabulary: int
    hidden: int
    layers: tuple[Layer, ...]
    softcap: float | None
    head: str  # module of the output projection; the embedding's own name when tied
    eps: float
    context: int  # positions the model was made for
    norm_offset: float = 0.0  # added to the weight of the last norm

    @property
    def embedding(self) -> str:
        """Module of the token embedding."""
        return f"{self.name}.embed_tokens"


@dataclass(frozen=True)
class Image:
    """The image embedder."""

    name: str
    patch_values: int
    eps: float


@dataclass(frozen=True)
class Audio:
    """The audio embedder."""

    name: str
    samples: int  # per soft token
    eps: float


@dataclass(frozen=True)
class SpecialTokens:
    """Ids with a meaning of their own in a sequence; None where a model has no such modality."""

    image: int | None
    audio: int | None
    video: int | None
    pad: int


@dataclass(frozen=True)
class Model:
    """All that is exported."""

    text: Text
    image: Image | None
    audio: Audio | None
    tokens: SpecialTokens

    @property
    def takes_media(self) -> bool:
        return bool(self.image or self.audio)
