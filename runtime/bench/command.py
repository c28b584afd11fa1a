"""The command line of a bench: what was asked for, progress on stderr, tables and one JSON line on stdout."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from runtime.bench.llama import PEER
from runtime.bench.phone import ARGUMENTS, FORMAT, Phone, bench_phone
from runtime.bench.plan import Wanted
from runtime.bench.progress import progress
from runtime.bench.result import Bench
from runtime.bench.show import show
from runtime.errors import UserError
from runtime.files import write_whole


@dataclass(frozen=True)
class Settings:
    """All but the work."""

    engines: Sequence[str] = ()
    peer: str | None = None
    gguf: Path | None = None  # the peer's model
    device: str | None = None  # "adb" or "adb:" and a serial
    runner: Path | None = None  # for the phone
    arguments: str | None = None  # of the runner
    out: Path | None = None  # file for the JSON
    json: bool = False  # print the JSON alone


def run(bundle: Path, wanted: Wanted, settings: Settings, console: Console) -> None:
    """Raises:
    UserError: see `bench_here`, or options that do not fit each other.
    """
    _require_writable(settings.out)
    _require_peer(settings)
    phone = _phone(settings)
    with progress() as expect:
        if phone:
            bench = bench_phone(bundle, wanted, phone, expect)
        else:
            from runtime.bench.local import bench_here  # engines take seconds to import

            bench = bench_here(bundle, wanted, settings.engines, settings.gguf, expect)
    tell(bench, settings, console)


def tell(bench: Bench, settings: Settings, console: Console) -> None:
    """Tables, unless the JSON is wanted alone; the JSON line, last."""
    line = bench.model_dump_json()
    if settings.out:
        write_whole(settings.out, line + "\n", "--out")
    if not settings.json:
        show(bench, console)
    print(line)


def _phone(settings: Settings) -> Phone | None:
    """Where a phone is wanted."""
    if settings.device is None:
        if settings.runner or settings.arguments:
            raise UserError("a runner is for a phone: add --device adb")
        return None
    kind, _, serial = settings.device.partition(":")
    if kind != "adb":
        raise UserError(f"there is no device {settings.device!r}: write adb, or adb:SERIAL as `adb devices` lists it")
    if settings.peer or set(settings.engines) - {FORMAT}:
        raise UserError(f"on a phone {FORMAT} alone is timed, by its own runner: leave --engine and --vs out")
    if settings.runner is None:
        raise UserError("name executorch's runner, built for the phone, with --runner (see README, Bench)")
    return Phone(settings.runner, serial or None, settings.arguments or ARGUMENTS)


def _require_peer(settings: Settings) -> None:
    if settings.peer not in (None, PEER):
        raise UserError(f"there is no peer {settings.peer!r}: write --vs {PEER}")
    if bool(settings.peer) != bool(settings.gguf):
        raise UserError(f"the peer and its model go together: write --vs {PEER} --gguf FILE")
    if settings.gguf and not settings.gguf.is_file():
        raise UserError(f"{settings.gguf} is no file: name a model in GGUF with --gguf")


def _require_writable(out: Path | None) -> None:
    """Before an hour is spent on what cannot be kept."""
    if out and not out.absolute().parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.absolute().parent} to write to")
