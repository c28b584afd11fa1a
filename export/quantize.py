"""Source checkpoint -> quantized checkpoint: streamed, resumed after a kill, renamed into place when complete."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from export.calibration.budget import DEFAULT_BUDGET, Budget
from export.calibration.corpus import Corpus, open_corpus
from export.calibration.prepare import Prepared, prepare
from export.calibration.rounding import rounding_of
from export.checkpoint import (
    CONFIG,
    QuantizationRecord,
    TensorError,
    codes_file,
    copy_beside,
    read_record,
    same_beside,
)
from export.folders import locked, put_in_place, require_space, write_atomically
from export.given import Given, given_by
from export.grid import Fit
from export.notes import calibration_cost, tell
from export.packed import PackedSource
from export.plan import CALIBRATED, PLAN, make_plan, start_or_resume, tell_why
from export.pool import worker_pool
from export.recipes import Recipe
from export.schemes import Scheme
from export.shards import ShardWriter
from export.sources import INDEX, Source, Stored
from export.streaming import Job, TensorResult, stream_tensor
from runtime import manifest
from runtime.architectures import EMBEDDING
from runtime.errors import UserError
from runtime.manifest import RECORD
from runtime.progress import Advance, progress

SHARD_BYTES = 512 * 2**20  # of source in one shard: what a kill can cost
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
        UserError: a weight holds NaN or infinity or is too narrow for the recipe, the recipe would round weights of 4
            bits anew or cannot measure an untied head, the disk is too small, or the folder cannot be written or is
            being written by another run.
    """
    _refuse_unfit(source, recipe)
    given, budget = given_by(source, recipe, name), _budget(recipe, budget)
    corpus = open_corpus(calibration) if recipe.method != "plain" and not given.roundings else None
    plan = make_plan(source, recipe, corpus, budget, given.found)
    work = _Work(source, recipe, name, folder, given, corpus, budget, plan)
    if (record := read_record(folder)) and record.plan == work.plan:
        return _refreshed(source, record, name, folder)
    if record:
        tell_why(folder, record.plan, plan)
    with locked(folder) as partial:
        record = _finished(partial, work.plan) or _make(work, partial)
        _tidy(partial)
        put_in_place(partial, folder)
    return _refreshed(source, record, name, folder)  # an interrupted run had copied files of its day


@dataclass(frozen=True)
class _Work:
    """What there is to do."""

    source: Source
    recipe: Recipe
    name: str
    folder: Path  # of the result
    given: Given  # what the source decides
    corpus: Corpus | None  # to calibrate on
    budget: Budget | None
    plan: dict[str, Any]  # what must be equal for a result to serve again


def _make(work: _Work, partial: Path) -> QuantizationRecord:
    """All of the checkpoint, in `partial`."""
    source, recipe = work.source, work.recipe
    start_or_resume(partial, work.plan)
    require_space(work.folder, quantized_bytes(source, recipe), "the quantized checkpoint")
    for note in work.given.notes:
        tell(note)
    prepared = Prepared(recipe, [])
    if work.corpus:
        tell(calibration_cost(source, recipe))
        prepared = prepare(source, recipe, work.corpus, work.budget, partial / CALIBRATED)
    shards = [[_rounded(job, work, prepared.recipe, partial) for job in shard]
              for shard in _shards(source, prepared.recipe)]  # fmt: skip
    results = _write_shards(source, shards, partial)
    record = _record(work, prepared, results)
    _finish(source, shards, record, partial)
    return record


def _refreshed(source: Source, record: QuantizationRecord, name: str, folder: Path) -> QuantizationRecord:
    """A finished checkpoint whose source may since have changed in everything but its weights, or moved."""
    told = record.model_copy(update={"source": record.source.model_copy(update=_origin(source, name)),
                                     "source_path": str(source.folder.absolute())})  # fmt: skip
    if told != record or not same_beside(source.folder, folder):
        with locked(folder):
            copy_beside(source.folder, folder)
            write_atomically(folder / RECORD, told.model_dump_json(indent=1))
    return told


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


def _refuse_unfit(source: Source, recipe: Recipe) -> None:
    if not recipe.wants_budget:
        return
    if isinstance(source, PackedSource):
        raise UserError(f"{source.folder} has weights of 4 bits already, which recipe {recipe.name} would round anew: "
                        "leave RECIPE out")  # fmt: skip
    if not source.config.tie_word_embeddings:
        raise UserError(f"{source.folder} has a head apart from its embedding, which recipe {recipe.name} cannot "
                        "measure: choose RECIPE=int4-gptq")  # fmt: skip


def _budget(recipe: Recipe, budget: Budget | None) -> Budget | None:
    if budget and not recipe.wants_budget:
        raise UserError(f"recipe {recipe.name} has no budget: leave BUDGET out, or choose RECIPE=auto")
    return budget or DEFAULT_BUDGET if recipe.wants_budget else None


def _rounded(job: Job, work: _Work, recipe: Recipe, partial: Path) -> Job:
    """Rounds as the source decides, else as calibration found best."""
    name, tied = job.stored.name, work.source.config.tie_word_embeddings
    if rounding := work.given.roundings.get(name):
        return replace(job, rounding=rounding, given=True)
    if not work.corpus or not job.scheme or (name.endswith(EMBEDDING) and not tied):
        return job  # an embedding that is no head multiplies nothing that calibration could have seen
    return replace(job, rounding=rounding_of(name, job.scheme, recipe, partial / CALIBRATED))


def _finished(partial: Path, plan: dict[str, Any]) -> QuantizationRecord | None:
    """Of a run of the same plan that was killed after its last write: the record is what it writes last."""
    record = read_record(partial)
    return record if record and record.plan == plan else None


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
    """One file of the standard part and, for each embedding in it, the file of its codes."""
    with ExitStack() as stack:
        standard = stack.enter_context(ShardWriter(path, [entry for job in shard for entry in job.entries()]))
        apart: dict[str, ShardWriter] = {}  # by key
        for job in (job for job in shard if job.is_embedding):
            codes = job.packed_entries()
            writer = stack.enter_context(ShardWriter(path.with_name(codes_file(job.stored.name)), codes))
            apart |= {entry.key: writer for entry in codes}

        def write(key: str, rows: torch.Tensor) -> None:
            apart.get(key, standard).append(key, rows)

        return [stream_tensor(source, job, write, pool, advance) for job in shard]


def _record(work: _Work, prepared: Prepared, results: list[TensorResult]) -> QuantizationRecord:
    recipe = prepared.recipe
    quantized = [result for result in results if result.energy]
    return QuantizationRecord(
        source=_describe(work.source, work.name, results),
        source_path=str(work.source.folder.absolute()),
        plan=work.plan,
        recipe=manifest.Recipe(name=recipe.name, description=recipe.description, kv_bits=recipe.kv_bits,
                               bits_per_weight=_bits_per_weight(results)),
        tensors=[result.digest for result in results],
        errors=[TensorError(name=result.digest.name, error=_rms(result.error, result.energy),
                            plain_error=_rms(result.plain_error, result.energy)) for result in quantized],
        error=_rms(*_totals(quantized, "error")),
        plain_error=_rms(*_totals(quantized, "plain_error")),
        grid=_grid([result.fits for result in quantized if result.fits]),
        sensitivity=prepared.sensitivity,
        notes=work.given.notes,
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
    return manifest.Source(sha256=digest.hexdigest(), model_type=source.config.model_type, **_origin(source, name))


def _origin(source: Source, name: str) -> dict[str, Any]:
    """Where it came from, which may change while the weights do not."""
    revision = source.folder.name if re.fullmatch(r"[0-9a-f]{40}", source.folder.name) else None
    return {"name": name, "revision": revision, "licence": _licence(source.folder)}


def _licence(folder: Path) -> str:
    """As the model card's front matter states it."""
    card = folder / "README.md"
    found = re.search(r"^license:\s*(\S+)", card.read_text(errors="replace"), re.MULTILINE) if card.exists() else None
    return found[1] if found else "unknown"


def _finish(source: Source, shards: list[Shard], record: QuantizationRecord, partial: Path) -> None:
    """Everything but the weights; the record last, as it says that all is there."""
    copy_beside(source.folder, partial)
    weight_map = {entry.key: _shard_name(index, len(shards))
                  for index, shard in enumerate(shards) for job in shard for entry in job.entries()}  # fmt: skip
    write_atomically(partial / INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1))
    write_atomically(partial / CONFIG, _config_text(source, shards))
    write_atomically(partial / RECORD, record.model_dump_json(indent=1))


def _tidy(partial: Path) -> None:
    """What only the work needed goes; a kill meanwhile leaves the record, by which the next run goes on here."""
    for path in (*partial.glob(".shard-*.json"), partial / PLAN):
        path.unlink(missing_ok=True)
    shutil.rmtree(partial / CALIBRATED, ignore_errors=True)


def _config_text(source: Source, shards: list[Shard]) -> str:
    """The source's config.json, told which modules are packed and how, and whether the head is the embedding."""
    config = json.loads((source.folder / CONFIG).read_text())
    if not source.config.tie_word_embeddings:
        config["tie_word_embeddings"] = False  # the source's may say otherwise, see sources
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
