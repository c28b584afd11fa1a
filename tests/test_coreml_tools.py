"""coremltools as the commands meet it: absent, of another release, or noisy."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from runtime import installed
from runtime.coreml_tools import VERSION, coremltools
from runtime.errors import UserError


def test_other_releases_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "version", lambda name: "8.3.0")
    with pytest.raises(UserError, match=rf"coremltools 8\.3\.0 is installed.*pip install coremltools=={VERSION}"):
        coremltools()


def test_absence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installed, "version", absent)
    with pytest.raises(UserError, match=f"not installed: pip install coremltools=={VERSION}"):
        coremltools()


def test_nothing_is_printed_and_logging_stays_as_it_was() -> None:
    code = "from runtime.coreml_tools import coremltools; coremltools(); import logging; logging.warning('heard')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "WARNING:root:heard\n")
