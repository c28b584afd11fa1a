"""Manifests that are read, and manifests that are refused, with the line that Python refuses them with."""

import copy
import json
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from runtime.errors import UserError
from runtime.manifest import FILE, FORMAT_VERSION, Manifest, read_manifest
from tests.fuzz.targets import manifest_facts

BUNDLE = Path("bundle")
Facts = dict[str, Any]
OUTSIDE = ["../secret", "onnx/../../secret", "/etc/passwd", "..\\secret", "onnx\\decoder.onnx", "a\0b", ""]
MEDIUM = "placeholder", "begin", "soft", "end"
PLACES: dict[str, tuple[str | int, ...]] = {
    "file": ("files", 0, "path"),
    "program": ("artifacts", "onnx", "programs", "decoder", "file"),
    "chunk": ("artifacts", "coreml", "host", "chunks", 0),
    "codes": ("artifacts", "coreml", "host", "embedding", "codes"),
    "golden": ("goldens", 0, "file"),
    "tensors": ("goldens", 0, "tensors"),
}


def manifests() -> Facts:
    return {
        "about": "Texts of manifest.json. Good ones are read; of bad ones `error` is Python's line.",
        "format_version": FORMAT_VERSION,
        "good": [{"name": name, "text": _text(facts)} for name, facts in good().items() if _read(_text(facts)) is None],
        "bad": [_bad(name, text) for name, text in bad().items()],
    }


def good() -> dict[str, Facts]:
    """With something in every field; as each app gets them; with what must be there alone."""
    facts = manifest_facts()
    return {
        "everything": facts,
        "android": facts | {"target": "android", "artifacts": {"onnx": facts["artifacts"]["onnx"]}},
        "ios": facts | {"target": "ios", "artifacts": {"coreml": facts["artifacts"]["coreml"]}},
        "minimal": json.loads(Manifest.model_validate(_least(facts)).model_dump_json(exclude_defaults=True)),
        "no dialogue": facts | {"dialogue": None, "undescribed": {"all": "the template is of another form"}},
        "no tools": facts | {"dialogue": facts["dialogue"] | {"tools": None}, "undescribed": {"tools": "another form"}},
    }


def _least(facts: Facts) -> Facts:
    empty: Facts = {"artifacts": {}, "files": [], "tensors": [], "goldens": [], "tools": {}}
    left_out = ("dialogue", "undescribed", "verification")
    return {key: value for key, value in (facts | empty).items() if key not in left_out}


def bad() -> dict[str, str]:
    """Texts by what is wrong."""
    text = _text(manifest_facts())
    broken = {"not JSON": text[:-1], "a list": "[]", "empty": ""}
    return broken | {name: _text(facts) for name, facts in _wrong().items()}


def _wrong() -> dict[str, Facts]:
    found = {
        "newer version": _changed(("format_version",), FORMAT_VERSION + 1),
        "older version": _changed(("format_version",), FORMAT_VERSION - 1),
        "no version": _without("format_version"),
        "version as text": _changed(("format_version",), str(FORMAT_VERSION)),
        "newer version, everything else unknown": {"format_version": FORMAT_VERSION + 1, "bundles": 7},
        "unknown key": _changed(("extra",), 1),
        "unknown key inside": _changed(("limits", "extra"), 1),
        "unknown key in a list": _changed(("files", 0, "extra"), 1),
        "unknown key in the dialogue": _changed(("dialogue", "extra"), "x"),
        "unknown role": _changed(("dialogue", "turns", "critic"), {"begin": "", "end": ""}),
        "unknown medium": _changed(("dialogue", "media", "smell"), dict.fromkeys(MEDIUM, "")),
        "unknown modality": _changed(("goldens", 0, "modality"), "smell"),
        "bits that there are not": _changed(("artifacts", "coreml", "host", "embedding", "bits"), 3),
        "text for a count": _changed(("limits", "context"), "many"),
        "a count for text": _changed(("target",), 7),
        "an object for a list": _changed(("files",), {}),
        "null for text": _changed(("source", "sha256"), None),
        "a fraction for a count": _changed(("limits", "context"), 1.5),
        "negative count": _changed(("files", 0, "size"), -1),
        "zero for a positive count": _changed(("limits", "context"), 0),
        "a count beyond 2^53": _changed(("files", 0, "size"), 2**53),
        "negative temperature": _changed(("sampling", "temperature"), -0.5),
        "nine axes": _changed(("tensors", 0, "shape"), [1] * 9),
    }  # fmt: skip
    found |= {f"without {key}": _without(key) for key in ("target", "source", "artifacts", "files", "tokens", "limits")}
    found |= {f"{place} at {value!r}": _changed(keys, value) for place, keys in PLACES.items() for value in OUTSIDE}
    return found


def _changed(keys: tuple[str | int, ...], value: object) -> Facts:
    facts = copy.deepcopy(manifest_facts())
    inner: Any = facts
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return facts


def _without(key: str) -> Facts:
    return {name: value for name, value in manifest_facts().items() if name != key}


def _text(facts: object) -> str:
    return json.dumps(facts, separators=(",", ":"))


def _bad(name: str, text: str) -> Facts:
    error = _read(text)
    assert error, name
    return {"name": name, "text": text, "error": error}


def _read(text: str, reader: Callable[[Path], object] = read_manifest) -> str | None:
    """The line that refuses it, with paths from the folder that the bundle lies in."""
    with TemporaryDirectory() as folder, chdir(folder):
        BUNDLE.mkdir()
        (BUNDLE / FILE).write_text(text, encoding="utf-8")
        try:
            reader(BUNDLE)
        except UserError as error:
            return str(error)
    return None
