"""`python -m ios_demo.checks.place BUNDLE`: copies a bundle to where the steps that it prints take it from."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from runtime.errors import UserError, bad_input_told
from runtime.manifest import read_manifest

DEMO = Path(__file__).parents[1]
IDENTIFIER = "org.example.gemma4-edge"  # of the app, as the project says
STEPS = """\
{bundle} is in {placed}. On a Mac with Xcode 16 or newer:

  1. open {project}
     In Signing & Capabilities choose your team, and a bundle identifier of your own: Apple gives each to one team
     alone, and {identifier} is only an example. Both memory entitlements must stay.
  2. Choose a phone or tablet with iOS 18 and press Run. The first build fetches the packages.
  3. Put the bundle into the app's documents, in Finder under the device's files, or:
     xcrun devicectl device copy to --device NAME --domain-type appDataContainer \\
       --domain-identifier YOUR.IDENTIFIER --source {placed} --destination Documents/{bundle}
     In a simulator:
     cp -R {placed} "$(xcrun simctl get_app_container booted YOUR.IDENTIFIER data)/Documents/"
  4. In the app pull down in Models, choose Core ML beside {bundle}, then replay the goldens in Self-test."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def place(bundle: Annotated[Path, typer.Argument(help="Folder that `make export TARGET=ios` wrote.")]) -> None:
    """Exits 0, or 2 where there is no bundle for iOS."""
    with bad_input_told():
        placed = copy(bundle, DEMO / "Documents")
    project = DEMO / "Gemma4Edge.xcodeproj"
    typer.echo(STEPS.format(bundle=bundle.name, placed=placed, project=project, identifier=IDENTIFIER))


def copy(bundle: Path, folder: Path) -> Path:
    """Files are hard links where they can be: a bundle of the 12B takes 7 GB.

    Raises:
        UserError: no bundle there, or one that an iPhone has no use for.
    """
    if not read_manifest(bundle).artifacts.keys() & {"coreml", "executorch"}:
        raise UserError(f"{bundle} holds neither Core ML packages nor a .pte: make export TARGET=ios")
    placed, partial = folder / bundle.name, folder / f".{bundle.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(bundle, partial, copy_function=_link)
    shutil.rmtree(placed, ignore_errors=True)
    return partial.rename(placed)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:  # another disk
        shutil.copy2(source, target)


if __name__ == "__main__":
    app()
