"""Source checkpoint -> quantized checkpoint: streamed, resumed after a kill, renamed into place when complete."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from export.calibration.budget import DEFAULT_BUDGET, Budget
from export.calibration.corpus import open_corpus
from export.calibration.prepare import CALIBRATION_VERSION, Prepared, prepare
from export.calibration.rounding import rounding_of
from export.checkpoint import EMBEDDING_CODES, QuantizationRecord, TensorError, read_record
from export.folders import locked, put_in_place, require_space, write_atomically
from export.grid import Fit, keep_grid, lies_on_grid
from export.packed import PackedSource
from export.pool import worker_pool
from export.recipes import PROJECTION, Recipe
from export.schemes import INT4, Rounding, Scheme
from export.shards import ShardWriter
from export.sources import INDEX, Source, Stored
from export.streaming import Job, TensorResult, stream_tensor
from runtime import manifest
from runtime.errors import UserError
from runtime.manifest import RECORD
from runtime.progress import Advance, progress

SHARD_BYTES = 512 * 2**20  # of source in one shard: what a kill can cost
VERSION = 2  # of the algorithm; work begun by another one is not resumed
PLAN = ".plan.json"
SAMPLED_ROWS = 64
CALIBRATED = ".calibrated"  # folder of what was found on the calibration data
WEIGHT_FILES = re.compile(r"\.(safetensors|bin|gguf|pt|pth|h5|msgpack)$|\.index\.json$|^\.")
RESULTS = TypeAdapter(list[TensorResult])
Shard = list[Job]


def quantize(
    source: Source, recipe: Recipe, name: str, folder: Path, calibration: Path | None = None,
    budget: Budget | None = None,
) -> QuantizationRecord:  # fmt: skip
    """Writes the quantized checkpoint `folder`, unless it is there already.

    Args:
        name: the model's, for people.
        calibration: folder of what the model reads where the recipe calibrates; None: the default set.
        budget: of a recipe that chooses schemes; None: DEFAULT_BUDGET.

    Raises:
        UserError: a weight holds NaN or infinity or is too narrow for the recipe, the disk is too small, or the folder
            cannot be written or is being written by another run.
    """
    given = _roundings_given(source, recipe)
    if given and recipe.wants_budget:
        raise UserError(f"{source.folder} has weights of 4 bits already, which recipe {recipe.name} would round anew: "
                        "leave RECIPE out")  # fmt: skip
    corpus = open_corpus(calibration) if recipe.method != "plain" and not given else None
    plan = {"version": VERSION, "source": source.fingerprint, "recipe": recipe.name}
    if corpus:
        plan |= {"calibration": corpus.fingerprint, "calibration_version": CALIBRATION_VERSION}
    if budget := _budget(recipe, budget):
        plan["budget"] = asdict(budget)
    if (record := read_record(folder)) and record.plan == plan:
        return record
    with locked(folder) as partial:
        _start_or_resume(partial, plan)
        require_space(folder, quantized_bytes(source, recipe), "the quantized checkpoint")
        prepared = prepare(source, recipe, corpus, budget, partial / CALIBRATED) if corpus else Prepared(recipe, [])
        shards = list(_shards(source, prepared.recipe))
        if corpus:
            shards = [[_calibrated(job, prepared.recipe, partial / CALIBRATED) for job in shard] for shard in shards]
        shards = [[_given(job, given) for job in shard] for shard in shards]
        results = _write_shards(source, shards, partial)
        record = _record(source, prepared, name, plan, results)
        _finish(source, shards, record, partial)
        put_in_place(partial, folder)
    return record


def _shards(source: Source, recipe: Recipe) -> Iterator[Shard]:
    """Consecutive tensors, so that the source is read in the order it lies on the disk."""
    shard: Shard = []
    for stored in source.tensors.values():
        shard.append(Job(stored, _scheme_of(stored, source, recipe)))
        if sum(job.stored.bytes for job in shard) >= SHARD_BYTES:
            yield shard
            shard = []
    if shard:
        yield shard


def _scheme_of(stored: Stored, source: Source, recipe: Recipe) -> Scheme | None:
    """A weight that is packed already keeps its scheme."""
    packed = source.scheme_of(stored.name) if isinstance(source, PackedSource) else None
    scheme = packed or recipe.scheme_of(stored.name)
    if scheme and (len(stored.shape) != 2 or stored.shape[1] % (scheme.group or 32)):
        raise UserError(f"{stored.name} is {list(stored.shape)}: recipe {recipe.name} wants rows of a multiple of "
                        f"{scheme.group or 32}; export with RECIPE=float")  # fmt: skip
    return scheme


def _roundings_given(source: Source, recipe: Recipe) -> dict[str, Rounding]:
    """By name of weight, where the source decides already: its weights are packed, or were trained for a grid."""
    if isinstance(source, PackedSource):
        return {name: source.rounding(name) for name in source.tensors if source.scheme_of(name)}
    projections = [name for name in source.tensors if PROJECTION.search(name) and recipe.scheme_of(name) == INT4]
    samples = [source.rows(name, 0, SAMPLED_ROWS) for name in projections[:1] + projections[-1:]]
    trained = bool(samples) and lies_on_grid(samples)
    return {name: keep_grid for name in source.tensors if trained and recipe.scheme_of(name)}


def _given(job: Job, roundings: Mapping[str, Rounding]) -> Job:
    return replace(job, rounding=roundings.get(job.stored.name, job.rounding))


def _budget(recipe: Recipe, budget: Budget | None) -> Budget | None:
    if budget and not recipe.wants_budget:
        raise UserError(f"recipe {recipe.name} has no budget: leave BUDGET out, or choose RECIPE=auto")
    return budget or DEFAULT_BUDGET if recipe.wants_budget else None


def _calibrated(job: Job, recipe: Recipe, folder: Path) -> Job:
    """Rounds as calibration found best."""
    return replace(job, rounding=rounding_of(job.stored.name, job.scheme, recipe, folder)) if job.scheme else job


def _start_or_resume(partial: Path, plan: dict[str, Any]) -> None:
    """Keeps what an interrupted run of the same plan has finished."""
    try:
        same = json.loads((partial / PLAN).read_text()) == plan
    except (OSError, json.JSONDecodeError):
        same = False
    if not same:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_atomically(partial / PLAN, json.dumps(plan))


def quantized_bytes(source: Source, recipe: Recipe) -> int:
    """Size of what `quantize` would write."""
    return _bytes_of(list(_shards(source, recipe)))


def _bytes_of(shards: list[Shard]) -> int:
    entries = (entry for shard in shards for job in shard
               for entry in job.entries() + (job.packed_entries() if job.is_embedding else []))  # fmt: skip
    return sum(entry.bytes for entry in entries)


def _shard_name(index: int, count: int) -> str:
    return f"model-{index + 1:05}-of-{count:05}.safetensors"


def _write_shards(source: Source, shards: list[Shard], partial: Path) -> list[TensorResult]:
    """All shards that an earlier run has not written."""
    results: list[TensorResult] = []
    total = sum(job.stored.bytes for shard in shards for job in shard)
    with worker_pool() as pool, progress("quantizing", total) as advance:
        for index, shard in enumerate(shards):
            done = partial / f".shard-{index + 1:05}.json"
            if done.exists():
                advance(sum(job.stored.bytes for job in shard))
            else:
                found = _write_shard(source, shard, partial / _shard_name(index, len(shards)), pool, advance)
                write_atomically(done, RESULTS.dump_json(found).decode())
            results += RESULTS.validate_json(done.read_bytes())
    return results


def _write_shard(source: Source, shard: Shard, path: Path, pool: Any, advance: Advance) -> list[TensorResult]:
    """One file of the standard part and, where the embedding is in it, the file of its codes."""
    codes = [entry for job in shard if job.is_embedding for entry in job.packed_entries()]
    with ExitStack() as stack:
        standard = stack.enter_context(ShardWriter(path, [entry for job in shard for entry in job.entries()]))
        apart = stack.enter_context(ShardWriter(path.with_name(EMBEDDING_CODES), codes)) if codes else standard

        def write(key: str, rows: torch.Tensor) -> None:
            (apart if any(entry.key == key for entry in codes) else standard).append(key, rows)

        return [stream_tensor(source, job, write, pool, advance) for job in shard]


def _record(
    source: Source, prepared: Prepared, name: str, plan: dict[str, Any], results: list[TensorResult]
) -> QuantizationRecord:
    recipe = prepared.recipe
    quantized = [result for result in results if result.energy]
    return QuantizationRecord(
        source=_describe(source, name, results),
        source_path=str(source.folder.absolute()),
        plan=plan,
        recipe=manifest.Recipe(name=recipe.name, description=recipe.description, kv_bits=recipe.kv_bits,
                               bits_per_weight=_bits_per_weight(results)),
        tensors=[result.digest for result in results],
        errors=[TensorError(name=result.digest.name, error=_rms(result.error, result.energy),
                            plain_error=_rms(result.plain_error, result.energy)) for result in quantized],
        error=_rms(*_totals(quantized, "error")),
        plain_error=_rms(*_totals(quantized, "plain_error")),
        grid=_grid([result.fits for result in quantized if result.fits]),
        sensitivity=prepared.sensitivity,
    )  # fmt: skip


def _grid(fits: list[list[int]]) -> dict[str, int]:
    """Groups by how well they are kept, of the tensors whose source decided."""
    return {fit.name.lower(): sum(counts[fit] for counts in fits) for fit in Fit} if fits else {}


def _totals(results: list[TensorResult], error: str) -> tuple[float, float]:
    return sum(getattr(result, error) for result in results), sum(result.energy for result in results)


def _rms(error: float, energy: float) -> float:
    return (error / energy) ** 0.5 if energy else 0.0


def _bits_per_weight(results: list[TensorResult]) -> float:
    """Stored bits over weights: codes and 16-bit scales of quantized tensors, the others as they are."""
    bits = weights = 0
    for digest in (result.digest for result in results):
        count = torch.Size(digest.shape).numel()
        weights += count
        if digest.scales_sha256 is None:
            bits += count * 8 * getattr(torch, digest.dtype).itemsize
        else:
            bits += count * int(digest.dtype.removeprefix("int")) + 16 * count // (digest.group or digest.shape[1])
    return bits / weights


def _describe(source: Source, name: str, results: list[TensorResult]) -> manifest.Source:
    digest = hashlib.sha256()
    for result in sorted(results, key=lambda result: result.digest.name):
        digest.update(f"{result.digest.name} {list(result.digest.shape)} {result.source_sha256}\n".encode())
    revision = source.folder.name if re.fullmatch(r"[0-9a-f]{40}", source.folder.name) else None
    return manifest.Source(name=name, revision=revision, sha256=digest.hexdigest(),
                           model_type=source.config.model_type, licence=_licence(source.folder))  # fmt: skip


def _licence(folder: Path) -> str:
    """As the model card's front matter states it."""
    card = folder / "README.md"
    found = re.search(r"^license:\s*(\S+)", card.read_text(errors="replace"), re.MULTILINE) if card.exists() else None
    return found[1] if found else "unknown"


def _finish(source: Source, shards: list[Shard], record: QuantizationRecord, partial: Path) -> None:
    """Everything but the weights; what only the work needed goes."""
    for path in source.folder.iterdir():
        if path.is_file() and not WEIGHT_FILES.search(path.name):
            shutil.copyfile(path, partial / path.name)
    weight_map = {entry.key: _shard_name(index, len(shards))
                  for index, shard in enumerate(shards) for job in shard for entry in job.entries()}  # fmt: skip
    write_atomically(partial / INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1))
    write_atomically(partial / "config.json", _config_text(source, shards))
    write_atomically(partial / RECORD, record.model_dump_json(indent=1))
    for path in (partial / PLAN, *partial.glob(".shard-*.json")):
        path.unlink()
    shutil.rmtree(partial / CALIBRATED, ignore_errors=True)


def _config_text(source: Source, shards: list[Shard]) -> str:
    """The source's config.json, told which modules are packed and how."""
    config = json.loads((source.folder / "config.json").read_text())
    modules: dict[Scheme, list[str]] = {}
    for job in (job for shard in shards for job in shard if job.scheme and not job.is_embedding):
        assert job.scheme
        modules.setdefault(job.scheme, []).append(job.stored.name.removesuffix(".weight"))
    if modules:
        config["quantization_config"] = {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "ignore": [],
            "config_groups": {f"group_{index}": {"targets": targets, "weights": _weights_args(scheme)}
                              for index, (scheme, targets) in enumerate(modules.items())},
        }  # fmt: skip
    return json.dumps(config, indent=1)


def _weights_args(scheme: Scheme) -> dict[str, Any]:
    """compressed-tensors' QuantizationArgs."""
    return {"num_bits": scheme.bits, "type": "int", "symmetric": True, "dynamic": False,
            "strategy": "group" if scheme.group else "channel", "group_size": scheme.group}  # fmt: skip
