"""Which scheme each weight gets, and what each target ships: the two tables that decide what an export makes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from export.schemes import INT4, INT4_128, INT8, Scheme
from runtime.errors import UserError

PROJECTION = re.compile(r"\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight$")
EMBEDDING = re.compile(r"(\.embed_tokens|^lm_head)\.weight$")

# plain: least squared error. weighted: the same, each input counting by its mean square on calibration data.
# compensated: GPTQ on calibration data.
Method = Literal["plain", "weighted", "compensated"]
Predicate = Callable[[str], Scheme | None]  # name of a weight -> its scheme; None: untouched


def decoder(projections: Scheme, embedding: Scheme) -> Predicate:
    """Quantizes the decoder's projections and its (tied) embedding; norms and the media embedders stay as they are."""

    def scheme_of(name: str) -> Scheme | None:
        if PROJECTION.search(name):
            return projections
        return embedding if EMBEDDING.search(name) else None

    return scheme_of


@dataclass(frozen=True)
class Recipe:
    """A name that users choose by."""

    name: str
    description: str
    scheme_of: Predicate
    method: Method = "plain"
    wants_budget: bool = False  # schemes are chosen by measured sensitivity; `scheme_of` has the largest
    kv_bits: Literal[8, 32] = 32  # of the keys and values in the cache


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("int4", "int4 in groups of 32, embedding included", decoder(INT4, INT4)),
        Recipe("int4-weighted", "as int4, scales by calibration data", decoder(INT4, INT4), "weighted"),
        Recipe("int4-gptq", "as int4, codes by calibration data", decoder(INT4, INT4), "compensated"),
        Recipe("int4-g128", "int4 in groups of 128, embedding included", decoder(INT4_128, INT4_128)),
        Recipe("int4-g128-gptq", "as int4-g128, codes by calibration data", decoder(INT4_128, INT4_128), "compensated"),
        Recipe("int4-embed8", "int4 in groups of 32, embedding int8 by row", decoder(INT4, INT8)),
        Recipe("int4-kv8", "int4 in groups of 32, key-value cache int8", decoder(INT4, INT4), kv_bits=8),
        Recipe("int8", "int8 by row, embedding included", decoder(INT8, INT8)),
        Recipe("int8-gptq", "as int8, codes by calibration data", decoder(INT8, INT8), "compensated"),
        Recipe(
            "auto", "int4 in groups of 128, 64 or 32 or int8, by sensitivity", decoder(INT8, INT8), "compensated", True
        ),
        Recipe("float", "unquantized, for small models and debugging", lambda name: None),
    )
}


@dataclass(frozen=True)
class Target:
    """What a bundle for a platform holds, in this order, what it may hold when asked to, and how it is quantized."""

    formats: tuple[str, ...]
    on_request: tuple[str, ...] = ()
    recipe: str = "int4"  # unless another is asked for; the Makefile repeats it

    @property
    def all(self) -> tuple[str, ...]:
        return self.formats + self.on_request


TARGETS = {
    "android": Target(("onnx", "executorch"), recipe="int4-gptq"),
    "desktop": Target(("onnx",), on_request=("executorch",)),
    "ios": Target(("coreml",), on_request=("executorch", "coreai")),
}


def find_recipe(name: str) -> Recipe:
    """Raises:
    UserError: there is none of this name.
    """
    if name not in RECIPES:
        raise UserError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
