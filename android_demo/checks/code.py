"""Compiling what the demo consists of: `core` whole and tested, `ui` and `app` against the real libraries as far as those
can be had."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from android_demo.checks.kotlin import compile_kotlin, run_junit, test_classes
from android_demo.checks.outcome import Outcome, failed, passed, skipped
from android_demo.checks.toolchain import Toolchain

DEMO = Path(__file__).parent.parent
SERIALIZATION = "kotlinx-serialization-compiler-plugin"


def check_core(tools: Toolchain, build: Path, vectors: Path) -> Iterator[Outcome]:
    """Compiled as Gradle would, warnings being errors, then its tests."""
    if not (tools.kotlin and tools.serialization and tools.junit):
        yield skipped("core", "needs the compiler, kotlinx.serialization and JUnit")
        return
    main, test = _fresh(build / "classes/core"), _fresh(build / "classes/core-test")
    libraries = [*tools.serialization]
    found = compile_kotlin(tools, [DEMO / "core/src/main/kotlin"], libraries, main, [SERIALIZATION], ["-Werror"])
    if not found.ok:
        yield failed("core compiles", "\n".join(found.said))
        return
    yield passed("core compiles")
    sources = DEMO / "core/src/test/kotlin"
    libraries = [main, *libraries, *tools.junit]
    found = compile_kotlin(tools, [sources], libraries, test, [SERIALIZATION], [f"-Xfriend-paths={main}"])
    if not found.ok:
        yield failed("tests of core compile", "\n".join(found.said))
        return
    yield run_junit("tests of core", [test, tools.lib / "kotlin-stdlib.jar", *libraries], test_classes(sources),
                    {"vectors": str(vectors), "repository": str(DEMO.parent)})  # fmt: skip


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
