"""Android's adb, as far as a bench needs it: which phones there are, a shell on one, bytes into a file on it."""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from shlex import quote

from runtime.errors import UserError

CHUNK = 2**20  # bytes
SETTLE = 10.0  # seconds that a file on the phone may stay as it is before no more is expected to come
LOOK = 0.1  # seconds
FIXES = {
    "unauthorized": "accept this computer's key on the phone's screen",
    "offline": "unplug it and plug it in again",
    "no permissions": "let this user use the USB device (udev rules)",
}


class Adb:
    """One phone."""

    def __init__(self, serial: str | None = None) -> None:
        """
        Args:
            serial: as `adb devices` lists it; by default the only phone that is attached.

        Raises:
            UserError: no adb on PATH, no such phone, several of them, or one that does not let us in.
        """
        self._program = find_adb()
        self.serial = choose_device(self._devices(), serial)

    def shell(self, command: str) -> str:
        """What a command of the phone's shell writes to stdout.

        Raises:
            UserError: it fails, or the phone is gone.
        """
        done = self._run("shell", command)
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise UserError(f"the phone {self.serial} refused {command.split()[0]!r} "
                            f"({said[-1] if said else f'exit code {done.returncode}'})")  # fmt: skip
        return done.stdout.decode(errors="replace")

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""
        told = self.shell(f"stat -c %s {quote(path)} 2>/dev/null || true").strip()
        return int(told) if told.isdigit() else None

    def append(self, local: Path, start: int, path: str, told: Callable[[], None] = lambda: None) -> None:
        """The rest of a file from byte `start` on, behind what the phone's file has.

        `adb exec-in` carries bytes as they are, but it does not wait for the phone to have written them.

        Args:
            told: called after each chunk.

        Raises:
            UserError: it did not all arrive; what did stays there.
        """
        command = [self._program, "-s", self.serial, "exec-in", f"cat >> {quote(path)}"]
        with local.open("rb") as file, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                                        stderr=subprocess.DEVNULL) as sending:  # fmt: skip
            file.seek(start)
            assert sending.stdin
            try:
                while chunk := file.read(CHUNK):
                    sending.stdin.write(chunk)
                    told()
                sending.stdin.close()
            except BrokenPipeError:
                sending.stdin = None  # closing would raise once more
        self._require_size(path, local.stat().st_size)

    def write(self, text: str, path: str) -> None:
        """A small file, whole; no other of this name is left there.

        Raises:
            UserError: the phone is gone.
        """
        data = text.encode()
        self.shell(f"rm -f {quote(path)}")
        self._run("exec-in", f"cat > {quote(path)}", data)
        self._require_size(path, len(data))

    def _require_size(self, path: str, wanted: int) -> None:
        """Waits as long as the file grows."""
        found, since = self.size(path), time.monotonic()
        while found != wanted and time.monotonic() - since < SETTLE:
            time.sleep(LOOK)
            before, found = found, self.size(path)
            since = time.monotonic() if found != before else since
        if found != wanted:
            raise UserError(f"{found or 0} of {wanted} bytes of {path} arrived on the phone {self.serial}: "
                            "look at the cable and run this again, it goes on from there")  # fmt: skip

    def _devices(self) -> dict[str, str]:
        done = subprocess.run([self._program, "devices"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        rows = (line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
        return {serial: state.strip() for serial, state in rows}

    def _run(self, service: str, command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """With stdin of its own: adb would read ours."""
        return subprocess.run([self._program, "-s", self.serial, service, command], input=given, capture_output=True)


def find_adb() -> str:
    """Raises:
    UserError: there is none.
    """
    found = shutil.which("adb")
    if not found:
        raise UserError("adb is not on PATH: install Android's platform-tools (apt install adb, brew install "
                        "android-platform-tools)")  # fmt: skip
    return found


def choose_device(states: dict[str, str], serial: str | None) -> str:
    """
    Args:
        states: by serial.

    Raises:
        UserError: none fits, or several do.
    """
    if serial is None and len(states) > 1:
        raise UserError(f"several phones are attached: name one, as in --device adb:{next(iter(states))} "
                        f"({', '.join(states)})")  # fmt: skip
    wanted = serial or next(iter(states), None)
    if wanted is None:
        raise UserError("no phone is attached: plug one in and allow USB debugging in its developer options")
    if wanted not in states:
        raise UserError(f"no phone {wanted!r} is attached; there are: {', '.join(states) or 'none'}")
    if states[wanted] != "device":
        fix = next((fix for state, fix in FIXES.items() if states[wanted].startswith(state)), "attach it again")
        raise UserError(f"the phone {wanted} is {states[wanted]}: {fix}")
    return wanted
