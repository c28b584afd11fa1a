"""DemoCore built and tested, and every Swift file parsed and linted."""

import re
from pathlib import Path

from ios_demo.checks.results import Failed, Results, console
from ios_demo.checks.toolchain import Toolchain

PASSED = re.compile(r"^✔ Test (?!run with)(.+) passed after", re.MULTILINE)
FAILED = re.compile(r"^✘ Test (?!run with)(.+) failed after", re.MULTILINE)


def check_core(swift: Toolchain, core: Path, scratch: Path, vectors: Path, results: Results) -> None:
    """`swift test`: each test counts as one check."""
    with console.status("swift test"):
        done = swift.run("env", f"VECTORS={vectors}", "swift", "test", "--scratch-path", str(scratch), folder=core)
    passed, failed = PASSED.findall(done.stdout), FAILED.findall(done.stdout)
    if not passed or (done.returncode and not failed):
        failed = ["DemoCore does not build, or its tests do not end"]
    if failed:
        console.print(done.stdout, markup=False, highlight=False)
    for name in passed:
        results.hold(f"swift test: {name}")
    for name in failed:
        results.fail(f"swift test: {name}", "see above")


def check_sources(swift: Toolchain, demo: Path, results: Results) -> None:
    """What needs no frameworks: the compiler's parser on every file of the app, and the formatter's rules on all."""
    with results.check("every file of the app parses"):
        for path in sorted((demo / "App").rglob("*.swift")):
            require_success(swift, demo, "swiftc", "-frontend", "-parse", "-swift-version", "6", str(path))
    with results.check("swift format lint --strict"):
        require_success(swift, demo, "swift", "format", "lint", "--strict", "--recursive", "DemoCore", "App")


def require_success(swift: Toolchain, folder: Path, *words: str) -> None:
    done = swift.run(*words, folder=folder)
    if done.returncode:
        raise Failed(done.stdout.strip())
