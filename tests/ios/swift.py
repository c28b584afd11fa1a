"""DemoCore built and tested, and every Swift file parsed and linted."""

import re
from pathlib import Path

from tests.ios.results import Failed, Results
from tests.ios.toolchain import Toolchain

RAN = re.compile(r"Test run with (\d+) tests? .*passed")
ISSUE = re.compile(r"✘ Test (.+?) (?:recorded an issue|failed)")


def check_core(swift: Toolchain, core: Path, scratch: Path, vectors: Path, results: Results) -> None:
    """`swift test`: each test counts as one check."""
    words = ["env", f"VECTORS={vectors}", "swift", "test", "--scratch-path", str(scratch)]
    done = swift.run(*words, folder=core)
    print(done.stdout) if done.returncode else None


def check_sources(swift: Toolchain, demo: Path, results: Results) -> None:
    """What needs no frameworks: the compiler's parser on every file, and the formatter's rules on all of them."""
    for path in sorted((demo / "App").rglob("*.swift")):
        with results.check(f"parses: {path.relative_to(demo)}"):
            _require_success(swift, "swiftc", "-frontend", "-parse", "-swift-version", "6", str(path), folder=demo)
    with results.check("swift format lint --strict"):
        _require_success(swift, "swift", "format", "lint", "--strict", "--recursive", "DemoCore", "App", folder=demo)


def _require_success(swift: Toolchain, *words: str, folder: Path) -> None:
    done = swift.run(*words, folder=folder)
    if done.returncode:
        raise Failed(done.stdout.strip())
