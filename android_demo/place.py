"""`make demo-android`: puts a bundle where adb takes it from, and says what to type next."""

import os
import shutil
import sys
from pathlib import Path

from runtime.errors import UserError
from runtime.manifest import FILE, SCHEMA_FILE, Manifest, read_manifest

FORMATS = {"executorch", "onnx"}  # that the app has engines for
WEIGHTS_APART = "executorch/model.ptd"
ON_PHONE = "/sdcard/Android/data/dev.gemma4edge.app/files/bundles"


def place(bundle: Path, out: Path) -> Path:
    """The files that the manifest names, linked or copied into a folder of the bundle's name; a second call renews it.

    Raises:
        UserError: no bundle there, nothing in it for Android, or a file is missing.
    """
    manifest = read_manifest(bundle)
    _require_usable(manifest)
    target = out / bundle.resolve().name
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in (FILE, SCHEMA_FILE, *(file.path for file in manifest.files)):
        _link(bundle / name, partial / name)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def _require_usable(manifest: Manifest) -> None:
    if not FORMATS & set(manifest.artifacts):
        raise UserError("the bundle holds nothing that runs on Android: make export TARGET=android")
    if any(file.path == WEIGHTS_APART for file in manifest.files):
        raise UserError(f"LlmModule opens one file, and the bundle has {WEIGHTS_APART}: export without --data-file")


def _link(source: Path, target: Path) -> None:
    if not source.is_file():
        raise UserError(f"{source} is missing: export the bundle again")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copyfile(source, target)


def main() -> None:
    try:
        placed = place(Path(sys.argv[1]), Path(sys.argv[2]))
    except UserError as error:
        sys.exit(f"error: {error}")
    size = sum(path.stat().st_size for path in placed.rglob("*") if path.is_file())
    print(f"{placed}: {size / 1e9:.2f} GB. With Gradle 8.13 or newer and the Android SDK, a phone on USB:\n")
    print("  (cd android_demo && gradle :app:installDebug)")
    print("  adb shell am start dev.gemma4edge.app/.MainActivity      # once, so that its folder is there")
    print(f"  adb push {placed} {ON_PHONE}/\n")
    print('Then "Look again" on the models\' screen.')


if __name__ == "__main__":
    main()
