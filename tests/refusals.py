"""What tests of bad input share: the one line that a command ends with, and manifests that are changed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import runtime.__main__
from runtime.manifest import FILE

OUTSIDE = ["../secret", "onnx/../../secret", "/etc/passwd", "..\\secret", "a\0b", "", "link/secret", "loop/secret"]
HELD = {"config.json", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "processor_config.json"}


def write(folder: Path, facts: Any) -> None:
    (folder / FILE).write_text(json.dumps(facts))


def told(app: Any, *arguments: str) -> str:
    """The one line that a command ends with."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.exception, result.output)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and not result.stdout
    return line


def refused(*arguments: str) -> str:
    return told(runtime.__main__.app, *arguments)


def place(facts: dict[str, Any], *keys: str | int) -> Callable[[str], None]:
    def put(value: str) -> None:
        inner: Any = facts
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return put
