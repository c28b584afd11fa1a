"""The Kotlin compiler and JUnit, run as programs."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from android_demo.checks.outcome import Outcome, failed, passed
from android_demo.checks.toolchain import Toolchain

COMPILER = ("kotlin-compiler", "kotlin-stdlib", "kotlin-script-runtime", "kotlin-reflect", "kotlin-daemon-client",
            "kotlinx-coroutines-core-jvm", "annotations-13.0")  # fmt: skip
TARGET = "17"  # of the JVM, as build.gradle.kts has it


@dataclass(frozen=True)
class Compiled:
    """What a compilation came to."""

    ok: bool
    said: list[str]  # errors and warnings


def compile_kotlin(
    tools: Toolchain, sources: Sequence[Path], libraries: Sequence[Path], out: Path, plugins: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Compiled:  # fmt: skip
    """Sources (files or folders) to classes in `out`.

    Args:
        plugins: of the compiler, by the names of its jars.
    """
    classpath = os.pathsep.join(str(tools.lib / f"{name}.jar") for name in COMPILER)
    command = ["java", "-Xmx2g", "-XX:+UseSerialGC", "-cp", classpath, "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
               "-no-stdlib", "-no-reflect", "-kotlin-home", str(tools.kotlin), "-jvm-target", TARGET,
               *(f"-Xplugin={tools.lib / name}.jar" for name in plugins), *options,
               "-cp", os.pathsep.join(map(str, [tools.lib / "kotlin-stdlib.jar", *libraries])),
               "-d", str(out), *map(str, sources)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if re.search(r": (error|warning): ", line) or "error: " in line]
    return Compiled(done.returncode == 0, said or done.stderr.splitlines()[:20] if done.returncode else said)


def run_junit(check: str, classpath: Sequence[Path], classes: Sequence[str], properties: dict[str, str]) -> Outcome:
    """Tests of the named classes, each of which counts."""
    command = ["java", "-Xmx1g", *(f"-D{name}={value}" for name, value in properties.items()),
               "-cp", os.pathsep.join(map(str, classpath)), "org.junit.runner.JUnitCore", *classes]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0 and (found := re.search(r"^OK \((\d+) tests?\)", done.stdout, re.MULTILINE)):
        return passed(check, count=int(found[1]))
    found = re.search(r"^Tests run: (\d+),  Failures: (\d+)", done.stdout, re.MULTILINE)
    told = done.stdout[-6000:] + done.stderr[-2000:]
    return failed(check, told, count=int(found[2]) if found else 1)


def test_classes(sources: Path) -> list[str]:
    """Qualified names of the classes that hold tests."""
    return [f"{_package(path)}.{path.stem}" for path in sorted(sources.rglob("*Test.kt"))]


def _package(path: Path) -> str:
    found = re.search(r"^package ([\w.]+)", path.read_text(), re.MULTILINE)
    assert found, path
    return found[1]
