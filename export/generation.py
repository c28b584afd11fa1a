"""Where a checkpoint's files state the ids that begin, end and fill a text."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ends:
    """Of a text."""

    bos: int
    eos: list[int]  # any of them ends a turn
    pad: int


def read_ends(folder: Path) -> Ends:
    """From generation_config.json, else config.json, else its text_config, as transformers makes its own of them.

    Gemma's text_config knows nothing of turns: a model that heeds its `eos_token_id` alone never stops at their end.
    """
    generation, config = read_settings(folder / "generation_config.json"), read_settings(folder / "config.json")
    places = generation, config, config.get("text_config", {})

    def find(name: str, default: int) -> Any:
        return next((value for place in places if (value := place.get(name)) is not None), default)

    eos = find("eos_token_id", 1)
    return Ends(find("bos_token_id", 2), eos if isinstance(eos, list) else [eos], find("pad_token_id", 0))


def read_settings(path: Path) -> dict[str, Any]:
    """What a JSON file states; nothing where there is none. A null states nothing, as it does to transformers."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    return {name: value for name, value in found.items() if value is not None}
