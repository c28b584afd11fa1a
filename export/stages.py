"""Stages of work that takes long: what an interrupted run finished, the next run of the same plan does not do again."""

import gc
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from export.folders import write_atomically
from runtime import heap

Result = TypeVar("Result")
CODE = "export", "runtime"  # packages that decide what comes out


class Stages:
    """Of one folder. What they returned is kept in a file beside it; a stage owns the subfolder of its name."""

    def __init__(self, folder: Path, plan: object) -> None:
        """Empties the folder, unless it was left by the same plan.

        Args:
            plan: all that the outcome depends on but the code and the data beside it, as JSON takes it.
        """
        self._folder = folder
        self._record = folder.with_suffix(".stages")
        self._plan = json.dumps([plan, _code_digest()], sort_keys=True)
        self._done = self._left_over()
        if not self._done:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()

    def once(self, name: str, kind: TypeAdapter[Result], work: Callable[[], Result]) -> Result:
        """What the work returns, or returned in an earlier run."""
        if name in self._done:
            return kind.validate_python(self._done[name])
        shutil.rmtree(self._folder / name, ignore_errors=True)
        result = work()
        gc.collect()  # graphs that know each other
        heap.trim()
        self._done[name] = kind.dump_python(result, mode="json")
        write_atomically(self._record, json.dumps({"plan": self._plan, "done": self._done}))
        return result

    def forget(self) -> None:
        """The next run does everything anew."""
        self._record.unlink(missing_ok=True)

    def _left_over(self) -> dict[str, Any]:
        """By stage; nothing where the plan was another or the folder has gone."""
        try:
            found = json.loads(self._record.read_bytes())
            return found["done"] if found["plan"] == self._plan and self._folder.is_dir() else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _code_digest() -> str:
    """What earlier code made does not serve later code; pictures, templates and held-out data lie beside it."""
    root = Path(__file__).parents[1]
    files = sorted(path for package in CODE for path in (root / package).rglob("*")
                   if path.is_file() and "__pycache__" not in path.parts)  # fmt: skip
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
