"""Packages that are wanted in one exact release: none, or another, is said in one line."""

from importlib.metadata import PackageNotFoundError, version

from runtime.errors import UserError


def require_release(package: str, wanted: str) -> None:
    """
    Raises:
        UserError: the package is not installed, or another release of it is.
    """
    cure = f"pip install {package}=={wanted}"
    try:
        found = version(package)
    except PackageNotFoundError:
        raise UserError(f"{package} is not installed: {cure}") from None
    if found != wanted:
        raise UserError(f"{package} {found} is installed, artifacts are for {wanted}: {cure}")
