"""Manifest, resources and Gradle files: parsed, and held to each other and to the sources."""

import re
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from android_demo.checks.outcome import Outcome, verdict

ANDROID = "{http://schemas.android.com/apk/res/android}"
PERMISSIONS = {"INTERNET", "FOREGROUND_SERVICE", "FOREGROUND_SERVICE_DATA_SYNC", "POST_NOTIFICATIONS", "RECORD_AUDIO"}
NETWORK = re.compile(r"\b(HttpURLConnection|openConnection|Socket\(|URL\()")
DOWNLOAD = "core/src/main/kotlin/download"  # the only code that may open a connection
PACKAGE = "dev.gemma4edge.app"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"
ENGINES = "executorch", "onnxruntime"  # by the names that the version catalog and PyPI both have for them


def check(demo: Path) -> Iterator[Outcome]:
    """All of them."""
    yield verdict("XML is well formed", list(_malformed(demo)))
    yield verdict("manifest", list(_manifest_faults(demo)))
    yield verdict("references to resources", list(_dangling(demo)))
    yield verdict("only the download uses the network", list(_network_elsewhere(demo)))
    yield verdict("Gradle files", list(_gradle_faults(demo)))
    yield verdict("releases of the engines", list(_release_faults(demo)))


def resource_ids(folder: Path, out: Path) -> Path:
    """The class R, as Android's tools make it of the resources."""
    groups = {kind: sorted(names) for kind, names in defined(folder).items()}
    lines = [f"package {PACKAGE}", "", "object R {"]
    for kind, names in groups.items():
        lines += [
            f"    object {kind} {{",
            *(f"        const val {name.replace('.', '_')} = {at}" for at, name in enumerate(names)),
            "    }",
        ]
    out.write_text("\n".join([*lines, "}"]) + "\n")
    return out


def defined(folder: Path) -> dict[str, set[str]]:
    """Names of resources by kind."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.xml")):
        if path.parent.name == "values":
            for element in ElementTree.parse(path).getroot():
                found.setdefault(element.tag, set()).add(element.get("name", ""))
        else:
            found.setdefault(path.parent.name.partition("-")[0], set()).add(path.stem)
    return found


def _malformed(demo: Path) -> Iterator[str]:
    for path in sorted(demo.rglob("src/main/**/*.xml")):
        try:
            ElementTree.parse(path)
        except ElementTree.ParseError as error:
            yield f"{path}: {error}"


def _manifest_faults(demo: Path) -> Iterator[str]:
    """Permissions are those that the README names; classes exist; nothing is open to others but the launcher."""
    root = ElementTree.parse(demo / "app/src/main/AndroidManifest.xml").getroot()
    asked = {element.get(f"{ANDROID}name", "").rpartition(".")[2] for element in root.iter("uses-permission")}
    if asked != PERMISSIONS:
        yield f"permissions differ: {sorted(asked ^ PERMISSIONS)}"
    application = root.find("application")
    assert application is not None
    if (
        application.get(f"{ANDROID}usesCleartextTraffic") != "false"
        or application.get(f"{ANDROID}allowBackup") != "false"
    ):
        yield "cleartext traffic and backups must be off"
    for element in application:
        name = element.get(f"{ANDROID}name", "")
        source = demo / "app/src/main/kotlin" / f"{name.lstrip('.').replace('.', '/')}.kt"
        if name.startswith(".") and not source.exists():
            yield f"{name}: there is no {source.relative_to(demo)}"
        if element.get(f"{ANDROID}exported") == "true" and element.tag != "activity":
            yield f"{name} is open to other apps"


def _dangling(demo: Path) -> Iterator[str]:
    """References of XML files and sources."""
    there = defined(demo / "app/src/main/res")
    texts = {path: path.read_text() for path in (demo / "app/src/main").rglob("*") if path.suffix in (".xml", ".kt")}
    for path, text in texts.items():
        for kind, name in [*re.findall(r"\"@(\w+)/([\w.]+)\"", text), *re.findall(r"\bR\.(\w+)\.(\w+)", text)]:
            if name not in there.get(kind, set()):
                yield f"{path.relative_to(demo)}: there is no {kind} {name}"


def _network_elsewhere(demo: Path) -> Iterator[str]:
    for path in sorted(demo.glob("*/src/main/kotlin/**/*.kt")):
        if NETWORK.search(path.read_text()) and demo / DOWNLOAD not in path.parents:
            yield f"{path.relative_to(demo)} opens connections"


def _gradle_faults(demo: Path) -> Iterator[str]:
    """Names of the version catalog that scripts use, versions that it uses, and modules."""
    catalog = tomllib.loads((demo / "gradle/libs.versions.toml").read_text())
    accessors = {"libs." + name.replace("-", ".") for name in catalog["libraries"]}
    accessors |= {"libs.plugins." + name.replace("-", ".") for name in catalog["plugins"]}
    for path in sorted(demo.glob("**/*.gradle.kts")):
        used = set(re.findall(r"\blibs\.[\w.]+", path.read_text()))
        yield from (f"{path.relative_to(demo)}: {name} is not in the catalog" for name in sorted(used - accessors))
    wanted = {
        entry["version"]["ref"]
        for kind in ("libraries", "plugins")
        for entry in catalog[kind].values()
        if "version" in entry
    }
    yield from (f"version {name} is missing or unused" for name in sorted(wanted ^ set(catalog["versions"])))
    modules = re.findall(r'":(\w+)"', (demo / "settings.gradle.kts").read_text())
    yield from (
        f"module {name} has no build.gradle.kts" for name in modules if not (demo / name / "build.gradle.kts").exists()
    )


def _release_faults(demo: Path) -> Iterator[str]:
    """Bundles are lowered for the releases that pyproject.toml pins, so the app must hold the very same."""
    catalog = demo / "gradle/libs.versions.toml"
    held = tomllib.loads(catalog.read_text())["versions"]
    wanted = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    pins = dict(name.split("==") for name in wanted if "==" in name)
    for engine in ENGINES:
        if held.get(engine) != pins.get(engine):
            yield (
                f"{engine} is {held.get(engine)} in {catalog.relative_to(demo)} and {pins.get(engine)} in "
                f'{PROJECT.name}: write {engine} = "{pins.get(engine)}" into the former'
            )
