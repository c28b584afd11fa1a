"""Plays adb and a phone, for tests: shells are real ones, in a folder that stands for the phone's storage.

Environment: PHONE, that folder; PHONE_DEVICES, what `adb devices` lists (one `serial state` a line); PHONE_CUT, bytes
after which a transfer breaks; PHONE_DAMAGE, how many large transfers flip a bit; PHONE_LAG, seconds that the phone
takes after adb has returned. What was transferred is noted in PHONE/transfers, a line of bytes each.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

STORAGE = "/data/local/tmp"
LARGE = 2**20  # bytes; a smaller transfer is never damaged


def devices() -> str:
    lines = os.environ.get("PHONE_DEVICES", "fake01 device").splitlines()
    return "List of devices attached\n" + "".join(line.replace(" ", "\t", 1) + "\n" for line in lines) + "\n"


def shell(command: str, given: bytes | None = None) -> int:
    """As on the phone, with what only phones have."""
    phone = Path(os.environ["PHONE"])
    path = f"{phone / 'bin'}:{os.environ['PATH']}"
    there = command.replace(STORAGE, str(phone))
    return subprocess.run(["/bin/sh", "-c", there], input=given, cwd=phone, env={**os.environ, "PATH": path}).returncode


def exec_in(command: str) -> int:
    """Bytes of stdin to a command. A cut one fails after what had come."""
    cut = int(os.environ.get("PHONE_CUT", "0"))
    data = sys.stdin.buffer.read(cut) if cut else sys.stdin.buffer.read()
    broken = bool(cut and sys.stdin.buffer.read(1))
    note = Path(os.environ["PHONE"]) / "transfers"
    with note.open("a") as lines:
        lines.write(f"{len(data)}\n")
    large = sum(int(line) > LARGE for line in note.read_text().split())
    if len(data) > LARGE and large <= int(os.environ.get("PHONE_DAMAGE", "0")):
        data = bytes([data[0] ^ 1]) + data[1:]
    if lag := float(os.environ.get("PHONE_LAG", "0")):
        if os.fork():
            return 0
        os.setsid()
        time.sleep(lag)
    return shell(command, data) or int(broken)


def main(arguments: list[str]) -> int:
    if arguments == ["devices"]:
        sys.stdout.write(devices())
        return 0
    _, serial, service, command = arguments  # -s SERIAL
    if f"{serial} device" not in os.environ.get("PHONE_DEVICES", "fake01 device").splitlines():
        sys.stderr.write(f"error: device '{serial}' not found\n")
        return 1
    return exec_in(command) if service == "exec-in" else shell(command, b"")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
