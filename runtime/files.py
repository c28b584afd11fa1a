"""Files of results: whole or not at all, and one line where they cannot be written."""

from pathlib import Path

from runtime.errors import UserError


def write_whole(path: Path, text: str, option: str) -> None:
    """Writes beside and renames.

    Args:
        option: of the command line, that says where.

    Raises:
        UserError: the file cannot be written.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another place with {option}") from None
