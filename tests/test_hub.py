"""Downloads by the hub's own client from a small hub here: revisions, and disks that are too small."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

from export.models import find_model, model_name
from runtime.errors import UserError

MODEL = "someone/model"
OLD, NEW = "a" * 40, "b" * 40
REVISIONS = {"main": NEW, "v1": OLD, "refs/pr/1": OLD, OLD: OLD, NEW: NEW}
WEIGHTS = 2_000_000  # bytes
FIND = """
import shutil, typer
from export.models import find_model
from runtime.errors import bad_input_told

shutil.disk_usage = lambda path: type("usage", (), dict(free=10**9, total=10**9, used=0))

def main():
    with bad_input_told():
        find_model("someone/model")

typer.run(main)
"""


def files(commit: str) -> dict[str, bytes]:
    """Of one state of the repository; its weights are the same in both."""
    return {"config.json": json.dumps({"of": commit}).encode(), "model.safetensors": bytes(WEIGHTS),
            "left_out.bin": bytes(10 * WEIGHTS)}  # fmt: skip


class Hub(BaseHTTPRequestHandler):
    """What snapshot_download asks of one."""

    sent: ClassVar[list[str]] = []  # names of files, in the order of their download

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if found := re.fullmatch(rf"/api/models/{MODEL}/(revision|tree)/(.*)", path):
            self._describe(found[1], found[2])
        elif found := re.fullmatch(rf"/{MODEL}/resolve/([^/]*)/(.*)", path):
            self._send_file(found[1], found[2])
        else:
            self._fail("RepoNotFound")

    def _describe(self, what: str, revision: str) -> None:
        if not (commit := REVISIONS.get(revision)):
            return self._fail("RevisionNotFound")
        tree = [{"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
                for name, data in files(commit).items()]  # fmt: skip
        about = {"id": MODEL, "modelId": MODEL, "sha": commit, "siblings": [], "tags": [], "private": False}
        self._send(json.dumps(tree if what == "tree" else about).encode(), {"Content-Type": "application/json"})

    def _send_file(self, commit: str, name: str) -> None:
        data = files(commit)[name]
        if self.command == "GET":
            Hub.sent.append(name)
        self._send(data, {"ETag": f'"{sha1(data).hexdigest()}"', "X-Repo-Commit": commit})

    def _send(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _fail(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files that are fetched from it; the client, here and in other processes, knows its address."""
    Hub.sent = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield Hub.sent
    server.shutdown()
    server.server_close()


# Revisions


@pytest.mark.parametrize(
    ("name", "commit"),
    [(MODEL, NEW), (f"{MODEL}@main", NEW), (f"{MODEL}@v1", OLD), (f"{MODEL}@{OLD}", OLD), (f"{MODEL}@refs/pr/1", OLD)],
)
def test_a_revision_is_the_one_that_is_there(
    hub: list[str], name: str, commit: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = find_model(name)
    assert folder.name == commit and json.loads((folder / "config.json").read_text()) == {"of": commit}
    assert (folder / "model.safetensors").stat().st_size == WEIGHTS and not (folder / "left_out.bin").exists()
    err = capfd.readouterr().err
    assert err.count(" 0/2 ") == 1 and "dry-run" not in err, "one bar begins"


def test_weights_that_two_revisions_share_are_fetched_once(hub: list[str]) -> None:
    folders = [find_model(name) for name in (f"{MODEL}@v1", MODEL)]
    assert sorted(hub) == ["config.json", "config.json", "model.safetensors"]
    assert len({(folder / "model.safetensors").stat().st_mtime_ns for folder in folders}) == 1, "so a plan stays"


def test_a_revision_that_is_not_there(hub: list[str]) -> None:
    with pytest.raises(UserError, match=f"{MODEL} has no revision 'v2': name a branch, a tag"):
        find_model(f"{MODEL}@v2")
    with pytest.raises(UserError, match="the hub has no model 'someone/other' for you"):  # control
        find_model("someone/other@v2")


@pytest.mark.parametrize("name", ["someone/model@", "@v1", "model@v1", "a/b/c@v1", "./someone/model@v1"])
def test_what_is_no_id_with_a_revision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.models.snapshot_download", lambda *_, **__: pytest.fail("it is asked for"))
    with pytest.raises(UserError, match=re.escape(f"no model {name!r}: name a folder")):
        find_model(name)


def test_a_revision_is_no_part_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever pins the revision that work began with finds it; a folder may be called what it likes."""
    monkeypatch.chdir(tmp_path)
    assert model_name("google/gemma-4-12B-it@refs/pr/1") == model_name("google/gemma-4-12B-it") == "gemma-4-12B-it"
    (tmp_path / "mine@home").mkdir()
    assert model_name("mine@home") == "mine@home" and find_model("mine@home") == Path("mine@home")


# Room


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """So many bytes, whoever asks."""
    monkeypatch.setattr("export.folders.shutil.disk_usage", lambda path: type("usage", (), {"free": count}))


def test_room_is_asked_for_before_anything_is_fetched(
    hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, WEIGHTS - 1)
    with pytest.raises(
        UserError, match=rf"downloading {MODEL} into the hub's cache \(HF_HOME moves it\) needs 0\.00 GB"
    ):
        find_model(MODEL)
    assert not hub and not list((tmp_path / "home").rglob("blobs"))
    free(monkeypatch, WEIGHTS + 1000)
    assert find_model(MODEL).is_dir(), "control: it fits, as files that nobody wants take none"


def test_what_is_there_needs_no_room(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    find_model(f"{MODEL}@v1")
    free(monkeypatch, 1000)
    assert find_model(MODEL).name == NEW
    assert hub[-1] == "config.json" and hub.count("model.safetensors") == 1, "its weights are those of the old one"


def test_a_checkpoint_in_the_cache_needs_no_hub(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = find_model(f"{MODEL}@v1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model(f"{MODEL}@v1") == folder
    with pytest.raises(UserError, match="could not be downloaded"):  # control: this one is not there
        find_model(f"{MODEL}@main")


def test_a_disk_that_fills_up_meanwhile(hub: list[str], tmp_path: Path) -> None:
    """Another program took the room after it was asked for: told as what it is, here by a real one."""
    (tmp_path / "home").mkdir()
    if not shutil.which("unshare") or on_a_disk_of("1m", "true").returncode:
        pytest.skip("no right to mount a file system")
    run = on_a_disk_of("1m", sys.executable, "-c", FIND)
    told = run.stderr.splitlines()[-1]
    assert run.returncode == 2 and told.startswith("error: ") and "network" not in told
    assert "No space left on device" in told and f"the disk of {tmp_path / 'home' / 'hub'} is full" in told
    assert on_a_disk_of("9m", sys.executable, "-c", FIND).returncode == 0, "control"


def on_a_disk_of(size: str, *command: str) -> subprocess.CompletedProcess[str]:
    script = f'mount -t tmpfs -o size={size} none "$HF_HOME" && exec "$@"'
    within = "unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh"
    return subprocess.run([*within, *command], env=os.environ, capture_output=True, text=True)
