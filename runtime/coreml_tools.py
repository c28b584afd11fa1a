"""coremltools, imported in one place: quietly, and only in the release that packages are written and checked with."""

import logging
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from runtime.errors import UserError

VERSION = "9.0"  # the MIL builder, the parser and the table of operators belong to a release


def coremltools() -> Any:
    """The module. Its import takes some seconds the first time, as it loads torch.

    It warns then of all that it cannot do off macOS and of the releases of torch it was not tested with: nothing that
    the MIL builder or the parser needs.

    Raises:
        UserError: it is not installed, or another release is.
    """
    try:
        found = version("coremltools")
    except PackageNotFoundError:
        raise UserError(f"coremltools is not installed: pip install coremltools=={VERSION}") from None
    if found != VERSION:
        raise UserError(
            f"coremltools {found} is installed, packages are for {VERSION}: pip install coremltools=={VERSION}"
        )
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import coremltools
    except ImportError as error:
        raise UserError(f"coremltools does not load ({error}): pip install coremltools=={VERSION}") from None
    finally:
        logging.disable(before)
    return coremltools
