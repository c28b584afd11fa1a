"""From what a user calls a model to a path: `tiny`, a folder, a GGUF file, or an id on the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError

from runtime.errors import UserError, first_line

EMBEDDED = {"tiny": Path(__file__).parent / "tiny" / "checkpoint"}
WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "README.md"]


def find_model(name: str) -> Path:
    """A checkpoint's folder, or its GGUF file; downloads it, resuming, where the name is an id on the hub.

    Raises:
        UserError: no such folder, no such id, or no network.
    """
    if name in EMBEDDED:
        return EMBEDDED[name]
    if Path(name).is_dir() or _is_gguf(name):
        return Path(name)
    if Path(name).exists():
        raise UserError(f"{name} is a file: name a GGUF file or the folder of a checkpoint")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"no model {name!r}: name a folder, a GGUF file, an id such as google/gemma-4-12B-it, or {_embedded()}"
        )
    return _download(name)


def model_name(name: str) -> str:
    """What its bundles are called: the last part of a folder or id, a file's without its ending."""
    if name in EMBEDDED:
        return name
    return Path(name).resolve().stem if _is_gguf(name) else Path(name).resolve().name


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf") and Path(name).is_file()


def _download(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=WANTED))
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"the hub has no model {name!r} for you: check the id, or log in with `hf auth login`"
        ) from None
    except (HTTPError, OSError, RuntimeError) as error:  # the last is what hf_xet makes of a connection that breaks off
        raise UserError(f"{name} could not be downloaded ({first_line(error)}): run again when there is network, it "
                        "resumes; or name a folder that holds the checkpoint") from None  # fmt: skip


def _embedded() -> str:
    return " or ".join(map(repr, EMBEDDED))
