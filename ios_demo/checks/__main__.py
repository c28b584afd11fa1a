"""`python -m ios_demo.checks`: all checks, and a last line `N passed, N failed`."""

import sys
from pathlib import Path

from ios_demo.checks.bundle import make_bundle
from ios_demo.checks.driving import check_driving
from ios_demo.checks.project import check_project
from ios_demo.checks.results import Results
from ios_demo.checks.swift import check_core, check_sources
from ios_demo.checks.toolchain import Toolchain, find_toolchain
from runtime.errors import UserError
from tests.vectors.__main__ import write_vectors

ROOT = Path(__file__).parents[2]
DEMO, BUILD = ROOT / "ios_demo", ROOT / "build"
SCRATCH = BUILD / "ios" / "swift"


def main() -> int:
    results = Results()
    check_project(DEMO, results)
    try:
        swift = find_toolchain(ROOT)
    except UserError as error:
        results.skip("all that needs Swift", str(error))
    else:
        _check_with(swift, results)
    print(results.line, flush=True)
    return bool(results.failed)


def _check_with(swift: Toolchain, results: Results) -> None:
    check_sources(swift, DEMO, results)
    vectors, bundle = BUILD / "ios" / "vectors", BUILD / "ios" / "bundle" / "tiny-int4"
    write_vectors(vectors)
    check_core(swift, DEMO / "DemoCore", SCRATCH, vectors, results)
    with results.check("the embedded model is exported for iOS"):
        make_bundle(bundle, BUILD)
    drive = str(SCRATCH / "debug" / "drive")
    if bundle.exists():
        check_driving(lambda *words: swift.command(drive, *words, folder=ROOT), bundle, results)


if __name__ == "__main__":
    sys.exit(main())
