"""`python -m android_demo.checks`: all checks, and a last line `N passed, N failed`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from android_demo.checks import code, resources, style
from android_demo.checks.outcome import Outcome, failed, passed, skipped, summary
from android_demo.checks.toolchain import fetch

BUILD = Path("build/android")


def run(build: Path) -> Iterator[Outcome]:
    """In the order in which one wants to know."""
    print("toolchain: fetching what is not there yet", flush=True)
    tools = fetch(build / "toolchain")
    for name, reason in tools.missing.items():
        yield skipped(f"toolchain: {name}", f"could not be had ({reason})")
    vectors = build / "vectors"
    yield write_vectors(vectors)
    yield from code.check_core(tools, build, vectors)
    yield from code.check_ui(tools, build)
    yield from code.check_app(tools, build)
    yield style.check(tools, code.DEMO)
    yield from resources.check(code.DEMO)


def write_vectors(folder: Path) -> Outcome:
    """What Kotlin must agree with, by the Python code of this very checkout."""
    done = subprocess.run([sys.executable, "-m", "tests.vectors", str(folder)], capture_output=True, text=True)
    return passed("vectors") if done.returncode == 0 else failed("vectors", done.stderr[-2000:])


def main() -> None:
    outcomes = []
    for outcome in run(BUILD):
        outcomes.append(outcome)
        print(f"{outcome.verdict:8} {outcome.check}" + (f" ({outcome.count})" if outcome.count > 1 else ""), flush=True)
        for line in outcome.note.splitlines():
            print(f"         {line}")
    print(summary(outcomes))
    sys.exit(any(one.verdict == "failed" for one in outcomes))


if __name__ == "__main__":
    main()
