"""Which kind of file something is, and what is told of it."""

from importlib import import_module
from pathlib import Path

from runtime.errors import UserError, first_line
from runtime.inspection.description import Description

SUFFIXES = {".mlpackage": "coreml", ".onnx": "onnx", ".pte": "executorch", ".safetensors": "checkpoint"}
CONTENTS = {  # of folders; the first that fits
    "manifest.json": "bundle", "*.safetensors": "checkpoint", "*.safetensors.index.json": "checkpoint",
    "*.onnx": "onnx", "model.pte": "executorch", "*.mlpackage": "coreml",
}  # fmt: skip


def inspect(path: Path) -> Description:
    """What is inside a bundle or a format's folder in one, a `.pte`, `.onnx` or `.mlpackage`, or a checkpoint.

    Only headers are read: weights are neither loaded nor hashed.

    Raises:
        UserError: nothing there, nothing of these, or a file that is missing, damaged or cut short.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: name a bundle, a checkpoint, or an artifact of one")
    kind = _kind(path.resolve())  # which has a suffix where "." has none
    if kind is None:
        raise UserError(f"{path} is nothing that can be inspected: name a bundle, a folder of safetensors, or a file "
                        f"that ends in {', '.join(SUFFIXES)}")  # fmt: skip
    describe = import_module(f"runtime.inspection.{kind}").describe  # some import engines, which takes seconds
    try:
        return describe(path)
    except (UserError, OSError):
        raise
    except Exception as error:  # whatever the offsets, sizes and names in a damaged file lead to
        raise UserError(f"{path} is damaged ({first_line(error)}): export or download it again") from error


def _kind(path: Path) -> str | None:
    if path.suffix in SUFFIXES or path.is_file():
        return SUFFIXES.get(path.suffix)
    return next((kind for pattern, kind in CONTENTS.items() if any(path.glob(pattern))), None)
