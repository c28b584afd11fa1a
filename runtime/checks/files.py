"""Are all files there, whole and unchanged, and no others?"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from runtime import manifest
from runtime.job import Job
from runtime.manifest import File, Measure

CHUNK = 1 << 20  # bytes


def run(job: Job) -> Iterator[Measure]:
    """Sizes and sha256 against the manifest; the manifest itself and its schema are beside them."""
    wrong = [reason for file in job.manifest.files if (reason := _explain(job.bundle, file, job.hashed))]
    listed = {file.path for file in job.manifest.files} | {manifest.FILE, manifest.SCHEMA_FILE}
    found = {path.relative_to(job.bundle).as_posix() for path in job.bundle.rglob("*") if path.is_file()}
    wrong += [f"{path} not listed" for path in sorted(found - listed)]
    yield job.measure("files", "files_wrong", len(wrong), note="; ".join(wrong))


def _explain(bundle: Path, file: File, hashed: bool) -> str | None:
    """What is wrong with a file, or None. One that was hashed a moment ago is not read again."""
    path = bundle / file.path
    if not path.is_file() or bundle.resolve() not in path.resolve().parents:
        return f"{file.path} missing"
    if (size := path.stat().st_size) != file.size:
        return f"{file.path} has {size} bytes, not {file.size}"
    return None if hashed or sha256(path) == file.sha256 else f"{file.path} has another sha256"


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
