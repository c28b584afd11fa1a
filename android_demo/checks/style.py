"""ktlint, with the settings of .editorconfig."""

import subprocess
from pathlib import Path

from android_demo.checks.outcome import Outcome, failed, passed, skipped
from android_demo.checks.toolchain import Toolchain


def check(tools: Toolchain, demo: Path) -> Outcome:
    """All sources and Gradle's scripts; what does not parse fails too."""
    if not tools.ktlint:
        return skipped("ktlint", "it could not be had")
    files = sorted(str(path.relative_to(demo)) for path in demo.rglob("*.kt*") if path.suffix in (".kt", ".kts"))
    done = subprocess.run(["java", "-jar", str(tools.ktlint), *files], cwd=demo, capture_output=True, text=True)
    return passed("ktlint", f"{len(files)} files") if done.returncode == 0 else failed("ktlint", done.stdout[-4000:])
