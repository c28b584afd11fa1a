"""Compiling what the demo consists of: `core` whole and tested, `ui` and `app` against the real libraries, as far as
those can be had."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from android_demo.checks.kotlin import compile_kotlin, run_junit, test_classes
from android_demo.checks.outcome import Outcome, failed, passed, skipped, verdict
from android_demo.checks.resources import resource_ids
from android_demo.checks.toolchain import Toolchain

DEMO = Path(__file__).parent.parent
SERIALIZATION = "kotlinx-serialization-compiler-plugin"
COMPOSE = "compose-compiler-plugin"
CALL, NO_CALL = "module.resetContext()", "module.resetContent()"  # one of LlmModule's, and none


NOT_CHECKED = """not checked, as only stubs of them are here: androidx.activity, androidx.core (notifications,
FileProvider), ApplicationExitInfo, ServiceInfo and Service of later levels;
Compose is that of the desktop, android.jar of API 23; Gradle did not run, and nothing was linked, dexed or run"""


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


def check_ui(tools: Toolchain, build: Path) -> Iterator[Outcome]:
    """Types alone: screens are drawn by `render`."""
    if not (tools.kotlin and tools.compose):
        yield skipped("ui: types", "needs the compiler and Compose")
        return
    found = compile_kotlin(
        tools, [DEMO / "ui/src/main/kotlin"], [tools.compose], _fresh(build / "classes/ui"), [COMPOSE]
    )
    yield verdict("ui: types", [] if found.ok else found.said)


def check_app(tools: Toolchain, build: Path) -> Iterator[Outcome]:
    """Types, against the real engines' Java APIs, android.jar and Compose; what those lack is stubbed, and named."""
    jars = tools.executorch, tools.onnxruntime, tools.android, tools.compose
    if not (tools.kotlin and tools.serialization and all(jars)):
        yield skipped("app: types", "needs the compiler, both engines' jars, android.jar and Compose")
        return
    stubs = _fresh(build / "classes/stubs")
    real = [path for path in (tools.executorch, tools.onnxruntime, tools.android, tools.compose) if path]
    sources = [*sorted((DEMO / "checks/stubs").glob("*.kt")), resource_ids(DEMO / "app/src/main/res", build / "R.kt")]
    found = compile_kotlin(tools, sources, real, stubs, [COMPOSE])
    if not found.ok:
        yield failed("stubs compile", "\n".join(found.said))
        return
    classes = [stubs, *tools.serialization, build / "classes/core", build / "classes/ui", *real]
    sources = [DEMO / "app/src/main/kotlin"]
    found = compile_kotlin(tools, sources, classes, _fresh(build / "classes/app"), [SERIALIZATION, COMPOSE])
    yield verdict("app: types", [] if found.ok else found.said, NOT_CHECKED)
    yield _control(tools, build, classes)


def _control(tools: Toolchain, build: Path, classes: list[Path]) -> Outcome:
    """A method that ExecuTorch does not have must be noticed, or the check above says nothing."""
    source, wrong = DEMO / "app/src/main/kotlin/engine/LlmModuleEngine.kt", build / "control/LlmModuleEngine.kt"
    _fresh(wrong.parent)
    text = source.read_text()
    wrong.write_text(text.replace(CALL, NO_CALL))
    found = compile_kotlin(tools, [wrong], classes, _fresh(build / "classes/control"))
    noticed = text != wrong.read_text() and any("unresolved reference 'resetContent'" in line for line in found.said)
    return verdict("app: control", [] if noticed else [f"{NO_CALL} went unnoticed", *found.said])


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
