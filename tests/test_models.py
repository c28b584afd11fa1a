"""Downloads that break off: whatever the hub's client makes of it, one line."""

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from export.models import find_model
from runtime.errors import UserError

ERRORS = [
    httpx2.ReadError(""), httpx2.ConnectError("no route\nto host"), httpx2.ReadTimeout("timed out"),
    httpx2.RemoteProtocolError("peer closed connection"), httpx2.ProxyError("407"), OSError("Name not known"),
]  # fmt: skip
FIND = """
import typer
from export.models import find_model
from runtime.errors import bad_input_told

def main():
    with bad_input_told():
        find_model("someone/model")

typer.run(main)
"""


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_broken_download_is_told(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("export.models.snapshot_download", broken)
    with pytest.raises(UserError) as found:
        find_model("google/gemma-4-12B-it")
    reason = (str(error) or type(error).__name__).splitlines()[0]
    assert str(found.value).startswith(f"google/gemma-4-12B-it could not be downloaded ({reason}): run again when")
    monkeypatch.setattr("export.models.snapshot_download", lambda *_, dry_run=False, **__: [] if dry_run else "there")
    assert find_model("google/gemma-4-12B-it") == Path("there"), "control"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "full"),
    [(OSError(errno.ENOSPC, "No space left on device"), True), (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
     (RuntimeError("Data processing error: No space left on device (os error 28)"), True),
     (caused(RuntimeError("a worker failed"), OSError(errno.ENOSPC, "full")), True),
     (OSError(errno.ECONNRESET, "Connection reset by peer"), False), (RuntimeError("connection closed"), False)],
)  # fmt: skip
def test_a_full_disk_is_not_taken_for_a_broken_network(
    monkeypatch: pytest.MonkeyPatch, error: Exception, full: bool
) -> None:
    def broken(*_: object, dry_run: bool = False, **__: object) -> list[object]:
        if dry_run:
            return []
        raise error

    monkeypatch.setattr("export.models.snapshot_download", broken)
    with pytest.raises(UserError) as found:
        find_model("google/gemma-4-12B-it")
    assert ("is full: make room there or have HF_HOME name" in str(found.value)) == full
    assert ("when there is network" in str(found.value)) != full


@pytest.fixture
def hub() -> Iterator[str]:
    """One that hangs up on whoever asks."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.recv(65536)
                connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_a_hub_that_hangs_up(hub: str, tmp_path: Path) -> None:
    """With the client itself."""
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    run = subprocess.run([sys.executable, "-c", FIND], env=environment, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.count("\n") == 1, run.stderr
    assert "could not be downloaded (Server disconnected" in run.stderr


def test_what_hf_xet_raises(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A connection refused, by the part of the client that the 12B's weights come through."""
    xet = pytest.importorskip("hf_xet")
    from huggingface_hub.utils._xet import get_xet_session

    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"

    def download(*_: Any, **__: Any) -> None:
        group = get_xet_session().new_file_download_group(
            endpoint=nobody, token="", token_expiry_unix_secs=int(time.time()) + 3600, token_refresh_url=nobody,
            token_refresh_headers={}, custom_headers={}, progress_callback=lambda *_, **__: None,
        )  # fmt: skip
        with group as files:
            files.start_download_file(xet.XetFileInfo("a" * 64, 1000), str(tmp_path / "weights"))

    monkeypatch.setattr("export.models.snapshot_download", download)
    with pytest.raises(UserError, match=r"could not be downloaded \(.*\): run again when there is network"):
        find_model("google/gemma-4-12B-it")
