"""What decides a quantized checkpoint: work of an equal plan is taken up, or serves again; other work is dropped."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from export.calibration.budget import Budget
from export.calibration.corpus import Corpus
from export.calibration.prepare import CALIBRATION_VERSION
from export.checkpoint import files_beside
from export.folders import write_atomically
from export.generation import read_ends
from export.notes import tell
from export.recipes import Recipe
from export.sources import CONFIGURATION, Source
from runtime.manifest import RECORD

VERSION = 2  # of the algorithm; work begun by another one is not resumed
PLAN = ".plan.json"
CALIBRATED = ".calibrated"  # folder of what was found on the calibration data
# Of tokenizer and processor, all but chat templates: calibration takes no more than a few tokens of one, and they are
# what releases mend most often. Nothing else is left out: which of these files transformers heeds is its own affair.
READING_FILES = re.compile(r"^(tokenizer|special_tokens_map|added_tokens|vocab|merges|(video_)?(pre)?processor_config)")
TEMPLATE = "chat_template"  # in tokenizer_config.json, where a release has no file of it
TOLD = {"source": "config.json or a file of weights", "version": "the quantizer", "budget": "the budget",
        "calibration_version": "the quantizer", "calibration": "the calibration data",
        "reading": "a file of the tokenizer or processor"}  # fmt: skip


def make_plan(
    source: Source, recipe: Recipe, corpus: Corpus | None, budget: Budget | None, found: Sequence[str] = ()
) -> dict[str, Any]:
    """
    Args:
        found: weights whose grid is kept beside packed ones.
    """
    plan: dict[str, Any] = {"version": VERSION, "source": source.fingerprint, "recipe": recipe.name}
    if corpus:
        plan |= {"calibration": corpus.fingerprint, "calibration_version": CALIBRATION_VERSION,
                 "reading": reading(source.folder)}  # fmt: skip
    if found:
        plan["grid"] = list(found)
    return plan | {"budget": asdict(budget)} if budget else plan


def reading(folder: Path) -> dict[str, str]:
    """sha256, by file, of what turns texts and media into what a model is calibrated on; and what texts begin with."""
    paths = (path for path in files_beside(folder) if READING_FILES.search(path.name))
    digests = {path.name: hashlib.sha256(_without_template(path)).hexdigest() for path in paths}
    return {"bos_token_id": str(read_ends(folder).bos)} | digests


def _without_template(path: Path) -> bytes:
    if path.name not in CONFIGURATION:
        return path.read_bytes()
    return json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != TEMPLATE}).encode()


def start_or_resume(partial: Path, plan: dict[str, Any]) -> None:
    """Keeps what an interrupted run of the same plan has finished; says why a calibration is dropped."""
    begun = _begun(partial)
    if begun == plan:
        return
    if (partial / CALIBRATED).exists():
        tell_why(partial, begun, plan)
    for mark in (RECORD, PLAN):  # first: what a kill leaves of the rest must not be taken for work of that plan
        (partial / mark).unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_atomically(partial / PLAN, json.dumps(plan))


def tell_why(folder: Path, begun: dict[str, Any], plan: dict[str, Any]) -> None:
    """A calibration, which takes hours, is not made again without a word."""
    if "calibration" in begun:
        moved = any(begun.get(key) != plan.get(key) for key in ("source", "reading"))
        advice = "; MODEL=id@revision stays with one state of a repository" if moved else ""
        tell(f"calibrating anew, as what {folder} holds is of another state of "
             f"{', '.join(_changed(begun, plan))}{advice}")  # fmt: skip


def _begun(partial: Path) -> dict[str, Any]:
    """The plan of an interrupted run; empty where there is none."""
    try:
        return dict(json.loads((partial / PLAN).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _changed(begun: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    """What differs, for people."""

    def names() -> Iterator[str]:
        for key in (key for key in begun | plan if begun.get(key) != plan.get(key)):
            before, now = begun.get(key), plan.get(key)
            if key == "reading" and isinstance(before, dict) and isinstance(now, dict):
                yield from (name for name in before | now if before.get(name) != now.get(name))
            else:
                yield TOLD.get(key, key)

    return list(dict.fromkeys(names()))
