"""From what a user calls a model to a path: `tiny`, a folder, a GGUF file, or an id on the Hugging Face hub."""

import errno
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

from export.folders import require_space
from runtime.errors import UserError, first_line

EMBEDDED = {"tiny": Path(__file__).parent / "tiny" / "checkpoint"}
WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "README.md"]
FULL = errno.ENOSPC, errno.EDQUOT
FULL_IN_WORDS = "No space left"  # all that hf_xet's errors have of it


def find_model(name: str) -> Path:
    """A checkpoint's folder, or its GGUF file; downloads it where the name is an id on the hub, or id@revision.

    Raises:
        UserError: no such folder, id or revision, no network, or a full disk.
    """
    if name in EMBEDDED:
        return EMBEDDED[name]
    if Path(name).is_dir() or _is_gguf(name):
        return Path(name)
    if Path(name).exists():
        raise UserError(f"{name} is a file: name a GGUF file or the folder of a checkpoint")
    identifier, revision = _parts(name)
    if identifier.count("/") != 1 or name.startswith((".", "/", "~")) or revision == "":
        raise UserError(
            f"no model {name!r}: name a folder, a GGUF file, an id such as google/gemma-4-12B-it, or {_embedded()}"
        )
    return _download(identifier, revision)


def model_name(name: str) -> str:
    """What its bundles are called: the last part of a folder or id, a file's without its ending.

    A revision is no part of it: whoever pins the one that work began with goes on with that work.
    """
    if name in EMBEDDED:
        return name
    if _is_gguf(name):
        return Path(name).resolve().stem
    return Path(name if Path(name).is_dir() else _parts(name)[0]).resolve().name


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf") and Path(name).is_file()


def _parts(name: str) -> tuple[str, str | None]:
    """Id and revision, which may be a branch, a tag or a commit; None: whatever is newest."""
    identifier, at, revision = name.partition("@")
    return identifier, revision if at else None


def _download(name: str, revision: str | None) -> Path:
    try:
        _require_room(name, revision)
        return Path(snapshot_download(name, revision=revision, allow_patterns=WANTED))
    except RevisionNotFoundError:
        raise UserError(f"{name} has no revision {revision!r}: name a branch, a tag or a whole commit of it") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"the hub has no model {name!r} for you: check the id, or log in with `hf auth login`"
        ) from None
    except (HTTPError, OSError, RuntimeError) as error:  # the last is what hf_xet makes of a connection that breaks off
        raise _broken_off(name, error) from None


def _require_room(name: str, revision: str | None) -> None:
    """For what is still to be fetched; the hub's client itself only warns, file by file."""
    try:
        files = snapshot_download(name, revision=revision, allow_patterns=WANTED, dry_run=True, tqdm_class=_NoBar)
    except DryRunError:  # not reached: the cache may have it all, else the download says what is wrong
        return
    missing = sum(file.file_size or 0 for file in files if file.will_download)
    require_space(Path(constants.HF_HUB_CACHE), missing, f"downloading {name} into the hub's cache (HF_HOME moves it)")


class _NoBar(tqdm):
    """Nothing is downloaded by a dry run, so that a bar would mislead."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"disable": True})


def _broken_off(name: str, error: BaseException) -> UserError:
    told = f"{name} could not be downloaded ({first_line(error)})"
    if _is_full(error):
        return UserError(f"{told}: the disk of {constants.HF_HUB_CACHE} is full: make room there or have HF_HOME name "
                         "a folder of another one, and run again, files that are whole are kept")  # fmt: skip
    return UserError(f"{told}: run again when there is network, files that are whole are kept; or name "
                     "a folder that holds the checkpoint")  # fmt: skip


def _is_full(error: BaseException | None) -> bool:
    """Whether it, or what led to it, is a full disk."""
    if error is None:
        return False
    full = (isinstance(error, OSError) and error.errno in FULL) or FULL_IN_WORDS in str(error)
    return full or _is_full(error.__cause__ or error.__context__)


def _embedded() -> str:
    return " or ".join(map(repr, EMBEDDED))
