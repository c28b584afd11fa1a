"""coremltools, imported in one place: quietly, and only in the release that packages are written and checked with."""

import logging
from typing import Any

from runtime.errors import MissingPackage
from runtime.installed import require_release

VERSION = "9.0"  # the MIL builder, the parser and the table of operators belong to a release


def coremltools() -> Any:
    """The module. Its import takes some seconds the first time, as it loads torch.

    It warns then of all that it cannot do off macOS and of the releases of torch it was not tested with: nothing that
    the MIL builder or the parser needs.

    Raises:
        MissingPackage: it is not installed, or another release is.
    """
    require_release("coremltools", VERSION)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import coremltools
    except ImportError as error:
        raise MissingPackage(f"coremltools does not load ({error}): pip install coremltools=={VERSION}") from None
    finally:
        logging.disable(before)
    return coremltools
