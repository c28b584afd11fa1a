"""Putting bundles in place for a phone, and whether the demo's checks notice what is wrong.

The Kotlin itself is tested by `make test-android`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from android_demo.checks import resources
from android_demo.checks.outcome import failed, passed, skipped, summary
from android_demo.place import WEIGHTS_APART, place
from runtime.errors import UserError
from tests.fuzz.targets import manifest_facts

DEMO = Path(__file__).parents[1] / "android_demo"


def make_bundle(folder: Path, **changes: Any) -> Path:
    """All files that the manifest names, each with its own name in it."""
    facts = manifest_facts() | changes
    folder.mkdir()
    for name in ("manifest.json", "manifest.schema.json", *(file["path"] for file in facts["files"])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(facts) if name == "manifest.json" else name)
    return folder


def test_a_bundle_is_put_in_place_and_renewed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny-int4")
    (bundle / "left behind").write_text("")
    placed = place(bundle, tmp_path / "out")
    there = {path.relative_to(placed) for path in placed.rglob("*") if path.is_file()}
    assert there == {path.relative_to(bundle) for path in bundle.rglob("*")} - {Path("left behind")}
    (placed / "old").write_text("")
    assert not (place(bundle, tmp_path / "out") / "old").exists()


def test_what_no_phone_can_open_is_refused(tmp_path: Path) -> None:
    artifacts = {"coreml": manifest_facts()["artifacts"]["coreml"]}
    with pytest.raises(UserError, match="make export TARGET=android"):
        place(make_bundle(tmp_path / "ios", artifacts=artifacts), tmp_path / "out")
    files = [{"path": WEIGHTS_APART, "size": 1, "sha256": ""}]
    with pytest.raises(UserError, match="without --data-file"):
        place(make_bundle(tmp_path / "apart", files=files), tmp_path / "out")
    bundle = make_bundle(tmp_path / "cut")
    (bundle / manifest_facts()["files"][0]["path"]).unlink()
    with pytest.raises(UserError, match="is missing"):
        place(bundle, tmp_path / "out")
    assert not any(path.name[0] != "." for path in (tmp_path / "out").glob("*"))


def test_the_demo_passes_its_checks_of_resources() -> None:
    assert [outcome.check for outcome in resources.check(DEMO) if outcome.verdict != "passed"] == []


@pytest.mark.parametrize(
    ("file", "old", "new", "check"),
    [
        ("app/src/main/AndroidManifest.xml", "permission.RECORD_AUDIO", "permission.READ_CONTACTS", "manifest"),
        ("app/src/main/AndroidManifest.xml", 'usesCleartextTraffic="false"', 'usesCleartextTraffic="true"', "manifest"),
        ("app/src/main/AndroidManifest.xml", ".download.DownloadService", ".download.Gone", "manifest"),
        ("app/src/main/res/values/strings.xml", '"app_name"', '"name"', "references to resources"),
        ("app/src/main/res/values/strings.xml", "</resources>", "", "XML is well formed"),
        ("gradle/libs.versions.toml", "compose-material3 =", "material3 =", "Gradle files"),
        ("settings.gradle.kts", '":core"', '":heart"', "Gradle files"),
        ("gradle/libs.versions.toml", 'onnxruntime = "1.32.0"', 'onnxruntime = "1.24.3"', "releases of the engines"),
        ("core/src/main/kotlin/bundle/Paths.kt", "package", "// URL(\npackage", "only the download uses the network"),
    ],
)
def test_a_fault_is_noticed(file: str, old: str, new: str, check: str, tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    shutil.copytree(DEMO, demo, ignore=shutil.ignore_patterns("checks", "build"))
    text = (demo / file).read_text()
    (demo / file).write_text(text.replace(old, new, 1))
    assert old in text
    outcomes = {outcome.check: outcome.verdict for outcome in faults(demo)}
    assert outcomes[check] == "failed"


def faults(demo: Path) -> list[Any]:
    """As far as the checks come: what does not parse ends them."""
    found = []
    try:
        for outcome in resources.check(demo):
            found.append(outcome)
    except SyntaxError:
        pass
    return found


def test_the_last_line_counts() -> None:
    outcomes = [passed("a", count=3), failed("b", "why")]
    assert summary(outcomes) == "3 passed, 1 failed"
    assert summary([*outcomes, skipped("c", "not here")]) == "3 passed, 1 failed, 1 skipped"
