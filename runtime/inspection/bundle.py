"""Bundles: what the manifest says, and what each artifact says of itself."""

from collections.abc import Iterator
from pathlib import Path

from runtime import manifest
from runtime.errors import MissingPackage, UserError
from runtime.inspection import coreml, executorch, onnx
from runtime.inspection.description import Artifact, Bundle, Description, Graph, Kind, Verdict, Weights, tally
from runtime.manifest import CacheMemory, Manifest, Program, Table, Verification, read_manifest

KINDS: dict[str, Kind] = {"onnx": "onnx", "executorch": "executorch", "coreml": "coreml", "coreai": "coreai"}
DESCRIBE = {"onnx": onnx.describe, "executorch": executorch.describe, "coreml": coreml.describe}  # by format
CONTEXTS = 4  # for which the memory of caches is told: the longest, and each half of the one before


def describe(path: Path) -> Description:
    """
    Args:
        path: of a folder with a manifest.

    Raises:
        UserError: it is no bundle, or one of its artifacts is missing, damaged or cut short.
    """
    found = read_manifest(path)
    files = {file.relative_to(path).as_posix(): file.stat().st_size for file in sorted(path.rglob("*"))
             if file.is_file()}  # fmt: skip
    artifacts = {format_: _artifact(path, found, format_, files) for format_ in found.artifacts}
    return Description(
        path=str(path),
        kind="bundle",
        size=sum(files.values()),
        files=files,
        source=found.source,
        recipe=found.recipe,
        notes=[*_unlike(found, files), *(note for artifact in artifacts.values() for note in artifact.notes)],
        bundle=_bundle(found, artifacts),
        artifacts=artifacts,
    )


def _unlike(found: Manifest, files: dict[str, int]) -> Iterator[str]:
    """Files that are not as the manifest lists them; `verify` takes their checksums, too."""
    listed = {file.path: file.size for file in found.files}
    yield from (f"{name} is missing" for name in listed.keys() - files.keys())
    yield from (f"{name} has {files[name]} bytes, listed are {size}" for name, size in listed.items()
                if files.get(name, size) != size)  # fmt: skip
    yield from (f"{name} is not listed" for name in sorted(files.keys() - listed.keys())
                if name not in (manifest.FILE, manifest.SCHEMA_FILE))  # fmt: skip


def _bundle(found: Manifest, artifacts: dict[str, Description]) -> Bundle:
    return Bundle(
        target=found.target,
        limits=found.limits,
        artifacts={
            name: Artifact(
                bytes=artifacts[name].size,
                programs=list(artifact.programs),
                cache=_cache(artifact.cache, found.limits.context),
            )
            for name, artifact in found.artifacts.items()
        },
        goldens={golden.name: golden.modality for golden in found.goldens},
        tensors=len(found.tensors),
        tools=found.tools,
        verdict=_verdict(found.verification) if found.verification else None,
    )


def _cache(memory: CacheMemory, context: int) -> dict[int, int]:
    """Positions to bytes."""
    return {positions: memory.at(positions) for halvings in reversed(range(CONTEXTS))
            if (positions := context >> halvings)}  # fmt: skip


def _verdict(verification: Verification) -> Verdict:
    return Verdict(
        passed=verification.passed,
        ran=verification.ran,
        skipped=verification.skipped,
        reference=verification.reference,
        failed=sorted({measure.name for measure in verification.measures if not measure.passed}),
        measures=len(verification.measures),
    )


def _artifact(bundle: Path, found: Manifest, format_: str, files: dict[str, int]) -> Description:
    """What the files of a format say, or where they cannot be asked, what the manifest says of them."""
    own = {name.partition("/")[2]: size for name, size in files.items() if name.startswith(f"{format_}/")}
    folder = bundle / format_
    try:
        told = DESCRIBE[format_](folder) if format_ in DESCRIBE else None
        note = None if told else f"{format_}: only its ports are told, as recorded"
    except MissingPackage as error:
        told, note = None, f"{format_}: only its ports are told, as recorded: {error}"
    told = told or _recorded(folder, found, format_)
    update = {
        "path": format_,
        "files": own,
        "size": sum(own.values()),
        "weights": tally([*told.weights, *_tables(found, format_)]),
        "notes": [*told.notes, *filter(None, [note])],
    }
    return told.model_copy(update=update)


def _recorded(folder: Path, found: Manifest, format_: str) -> Description:
    programs = found.artifacts[format_].programs.items()
    graphs = [_graph(role, program) for role, program in programs]
    if format_ not in KINDS:
        raise UserError(f"{folder}: no artifact of a format {format_!r} is known here: update gemma4-edge")
    return Description(path=str(folder), kind=KINDS[format_], size=0, files={}, graphs=graphs)


def _graph(role: str, program: Program) -> Graph:
    return Graph(
        name=role, file=program.file, inputs=program.inputs, outputs=program.outputs, states=program.states
    )  # fmt: skip


def _tables(found: Manifest, format_: str) -> Iterator[Weights]:
    """Rows that a host looks up itself, which no program knows of."""
    host = found.artifacts[format_].host
    if host is None:
        return
    table: Table = host.embedding
    sizes = {file.path: file.size for file in found.files}
    dtype = "float32" if table.scales is None else f"int{table.bits}"
    yield Weights(dtype=dtype, part="codes" if table.scales else "values", bits=table.bits,
                  values=table.rows * table.columns, bytes=sizes[table.codes])  # fmt: skip
    if table.scales:
        size = sizes[table.scales]
        yield Weights(dtype="float16", part="scales", bits=16, values=size // 2, bytes=size)
