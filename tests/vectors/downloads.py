"""What a download does with the part of a file that it has: ask for the rest, keep it, or begin again."""

from hashlib import sha256
from typing import Any

WHOLE = bytes(range(256)) * 4
DIGEST = sha256(WHOLE).hexdigest()
OTHER = bytes([*WHOLE[:99], WHOLE[99] ^ 1])  # 100 bytes, of which the last is another


def downloads() -> dict[str, Any]:
    return {
        "about": "A file, the part of it that is there, the server's status and body -> the Range header that "
        "is asked with (null: none), the part afterwards, and what to do: done, continue or begin again.",
        "file": {"path": "onnx/decoder.onnx.data", "size": len(WHOLE), "sha256": DIGEST},
        "whole": WHOLE.hex(),
        "cases": [_case(name, *case) for name, case in CASES.items()],
    }


CASES: dict[str, tuple[bytes, int | None, bytes]] = {
    "nothing there": (b"", 200, WHOLE),
    "a part there": (WHOLE[:100], 206, WHOLE[100:]),
    "the server ignores ranges": (WHOLE[:100], 200, WHOLE),
    "the connection ends": (WHOLE[:100], 206, WHOLE[100:700]),
    "the connection ends at the start": (b"", 200, WHOLE[:10]),
    "all there": (WHOLE, None, b""),
    "all there, of other bytes": (OTHER + WHOLE[100:], None, b""),
    "a part of other bytes": (OTHER, 206, WHOLE[100:]),
    "more there than the file has": (WHOLE + b"x", 200, WHOLE),
    "the server sends more": (b"", 200, WHOLE + b"x"),
    "the server sends other bytes": (b"", 200, OTHER + WHOLE[100:]),
    "the server has no such range": (WHOLE[:100], 416, b""),
}


def _case(name: str, part: bytes, status: int | None, body: bytes) -> dict[str, Any]:
    """What is longer than the file cannot be its beginning; what is as long is asked of its digest alone."""
    there = part if len(part) <= len(WHOLE) else b""
    asked = f"bytes={len(there)}-" if 0 < len(there) < len(WHOLE) else None
    after = there if status is None else there + body if status == 206 else body if status == 200 else b""
    return {"name": name, "part": part.hex(), "range": asked, "status": status, "body": body.hex(),
            "after": after.hex(), "then": _then(after, status)}  # fmt: skip


def _then(after: bytes, status: int | None) -> str:
    if status != 416 and len(after) < len(WHOLE):
        return "continue"
    return "done" if sha256(after).hexdigest() == DIGEST else "begin again"
