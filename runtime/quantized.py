"""The quantized checkpoint that a bundle was made from, told by the quantizer's record in it."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from runtime.errors import UserError
from runtime.manifest import RECORD, Manifest, TensorDigest
from runtime.untrusted import read_object

DIGESTS = TypeAdapter(list[TensorDigest])


def read_own_record(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The record in `folder`, which has the weights that the bundle has.

    Raises:
        UserError: there is no readable one, or it is of other weights.
    """
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"there is no {path}: name the quantized checkpoint with --quantized")
    record = read_object(path, "quantize again")
    try:
        digests = DIGESTS.validate_python(record.get("tensors"))
    except ValidationError as error:
        raise UserError(f"{path} is no record of a quantization ({error.errors()[0]['msg']}): quantize again") from None
    if digests != manifest.tensors:
        raise UserError(f"{path} is of other weights than the bundle: name its own checkpoint with --quantized")
    return record
