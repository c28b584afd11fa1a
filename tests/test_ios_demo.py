"""What the checks of the iOS demo catch without Swift, and how a bundle is put in place for the app."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pbxproj import XcodeProject
from typer.testing import CliRunner

from ios_demo.checks import place, toolchain
from ios_demo.checks.project import PROJECT, RESOLVED, require_lists, require_pins, require_project
from ios_demo.checks.results import Failed, Results
from runtime.errors import UserError
from tests.fuzz.targets import manifest_facts
from tests.refusals import write

DEMO = Path(__file__).parents[1] / "ios_demo"
FILE = PROJECT / "project.pbxproj"
MEMORY = "<key>com.apple.developer.kernel.increased-memory-limit</key>\n\t<true/>"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """To be changed."""
    return shutil.copytree(DEMO, tmp_path / "ios_demo", ignore=shutil.ignore_patterns("Documents", "checks"))


def project(demo: Path) -> XcodeProject:
    return XcodeProject.load(str(demo / FILE))


CHANGES: dict[str, tuple[Path, str, str, Callable[[Path], None]]] = {
    "an older project": (FILE, "objectVersion = 77", "objectVersion = 56", lambda d: require_project(d, project(d))),
    "a missing folder": (FILE, "path = Config", "path = Settings", lambda d: require_project(d, project(d))),
    "a missing package": (FILE, "relativePath = DemoCore", "relativePath = Core",
                          lambda d: require_project(d, project(d))),
    "a missing list": (FILE, "Config/Info.plist", "Config/Other.plist", lambda d: require_project(d, project(d))),
    "a package that is not linked": (FILE, "productName = Tokenizers", "productName = Hub",
                                     lambda d: require_project(d, project(d))),
    "an entitlement left out": (Path("Config/Demo.entitlements"), MEMORY, "", require_lists),
    "a reason left out": (Path("Config/Info.plist"), "NSCameraUsageDescription", "NSOther", require_lists),
    "a range of versions": (FILE, "kind = exactVersion", "kind = upToNextMajorVersion",
                            lambda d: require_pins(d, project(d))),
    "another version resolved": (RESOLVED, '"1.3.3"', '"1.3.2"', lambda d: require_pins(d, project(d))),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_control_changes_are_noticed(demo: Path, name: str) -> None:
    file, wanted, other, check = CHANGES[name]
    check(demo)
    text = (demo / file).read_text()
    assert wanted in text
    (demo / file).write_text(text.replace(wanted, other))
    with pytest.raises(Failed):
        check(demo)


def test_without_swift_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "CACHE", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserError, match="Swift 6 so that `swift` is on PATH"):
        toolchain.find_toolchain(tmp_path)


def test_results_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    results = Results()
    with results.check("holds"):
        pass
    with results.check("fails"):
        raise Failed("for a reason")
    assert results.line == "1 passed, 1 failed"
    results.skip("is not tried", "no Swift")
    assert results.line == "1 passed, 1 failed, 1 skipped"
    assert "SKIP is not tried: no Swift" in capsys.readouterr().out


def test_a_bundle_is_put_in_place(thin_bundle: Path, tmp_path: Path) -> None:
    """Twice: what was there goes."""
    folder = tmp_path / "Documents"
    (place.copy(thin_bundle, folder) / "left over").touch()
    placed = place.copy(thin_bundle, folder)
    files = {path.relative_to(thin_bundle): path.read_bytes() for path in thin_bundle.rglob("*") if path.is_file()}
    assert files == {path.relative_to(placed): path.read_bytes() for path in placed.rglob("*") if path.is_file()}
    assert [path.name for path in folder.iterdir()] == [thin_bundle.name]


def test_a_bundle_of_another_target_is_refused(thin_bundle: Path) -> None:
    facts = manifest_facts()
    write(thin_bundle, facts | {"artifacts": {"onnx": facts["artifacts"]["onnx"]}})
    result = CliRunner().invoke(place.app, [str(thin_bundle)])
    assert result.exit_code == 2 and "make export TARGET=ios" in result.stderr
