"""The Xcode project, property lists and pinned packages, read back by libraries that are not Xcode."""

import json
import plistlib
import re
from pathlib import Path
from typing import Any

from pbxproj import XcodeProject

from ios_demo.checks.results import Failed, Results

PROJECT = Path("Gemma4Edge.xcodeproj")
RESOLVED = PROJECT / "project.xcworkspace/xcshareddata/swiftpm/Package.resolved"
SYNCHRONIZED = 77  # objectVersion of Xcode 16, the first whose folders are synchronized
ENTITLEMENTS = {"com.apple.developer.kernel.increased-memory-limit",
                "com.apple.developer.kernel.extended-virtual-addressing"}  # fmt: skip
USED = {"AVAudioApplication.requestRecordPermission": "NSMicrophoneUsageDescription",
        "UIImagePickerController": "NSCameraUsageDescription"}  # fmt: skip
EXACT = {"exactVersion", "branch"}  # executorch has a branch for each release, and no versions


def check_project(demo: Path, results: Results) -> None:
    with results.check("the project opens, and its folders and packages are there"):
        require_project(demo, XcodeProject.load(str(demo / PROJECT / "project.pbxproj")))
    with results.check("property lists ask for the memory and the devices that the app uses"):
        require_lists(demo)
    with results.check("packages are pinned"):
        require_pins(demo, XcodeProject.load(str(demo / PROJECT / "project.pbxproj")))


def require_project(demo: Path, project: Any) -> None:
    if int(project["objectVersion"]) != SYNCHRONIZED:
        raise Failed(f"objectVersion is {project['objectVersion']}, not {SYNCHRONIZED}")
    (target,) = _section(project, "PBXNativeTarget")
    groups = {group.get_id(): demo / group.path for group in _section(project, "PBXFileSystemSynchronizedRootGroup")}
    sources = [groups[identity] for identity in target.fileSystemSynchronizedGroups]
    local = [demo / package.relativePath for package in _section(project, "XCLocalSwiftPackageReference")]
    for folder in [*groups.values(), *local]:
        if not folder.is_dir():
            raise Failed(f"{folder} is missing")
    linked = {product.productName for product in _section(project, "XCSwiftPackageProductDependency")}
    if unlinked := imports(sources) & {"DemoCore", "Tokenizers"} - linked:
        raise Failed(f"the target imports {unlinked} and does not link them")
    for path in ("CODE_SIGN_ENTITLEMENTS", "INFOPLIST_FILE"):
        if not all((demo / file).is_file() for file in _settings(project, path)):
            raise Failed(f"{path} names no file")


def imports(folders: list[Path]) -> set[str]:
    """Modules that Swift files import."""
    texts = (file.read_text() for folder in folders for file in folder.rglob("*.swift"))
    return {name for text in texts for name in re.findall(r"^import (\w+)", text, re.MULTILINE)}


def require_lists(demo: Path) -> None:
    granted = plistlib.loads((demo / "Config/Demo.entitlements").read_bytes())
    if {name for name, value in granted.items() if value is True} != ENTITLEMENTS:
        raise Failed(f"entitlements are {granted}")
    told = plistlib.loads((demo / "Config/Info.plist").read_bytes())
    sources = "".join(file.read_text() for file in (demo / "App").rglob("*.swift"))
    for use, reason in USED.items():
        if (use in sources) != bool(told.get(reason)):
            raise Failed(f"{reason} and the use of {use} do not fit")


def require_pins(demo: Path, project: Any) -> None:
    """By exact version, or the branch of a release."""
    pins = {pin["location"]: pin["state"] for pin in json.loads((demo / RESOLVED).read_text())["pins"]}
    for package in _section(project, "XCRemoteSwiftPackageReference"):
        wanted = package.requirement
        if wanted.kind not in EXACT:
            raise Failed(f"{package.repositoryURL} is not pinned: {wanted.kind}")
        if wanted.kind == "exactVersion" and pins[package.repositoryURL]["version"] != wanted.version:
            raise Failed(f"{package.repositoryURL} is resolved to another version than {wanted.version}")


def _section(project: Any, name: str) -> list[Any]:
    return list(project.objects.get_objects_in_section(name))


def _settings(project: Any, name: str) -> set[str]:
    """Values of a build setting, where it is set."""
    found = (configuration.buildSettings for configuration in _section(project, "XCBuildConfiguration"))
    return {settings[name] for settings in found if name in settings}
