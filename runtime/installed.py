"""Packages that are wanted in one exact release: none, or another, is said in one line."""

from importlib.metadata import PackageNotFoundError, version

from runtime.errors import MissingPackage


def require_release(package: str, wanted: str) -> None:
    """
    Raises:
        MissingPackage: the package is not installed, or another release of it is.
    """
    cure = f"pip install {package}=={wanted}"
    try:
        found = version(package)
    except PackageNotFoundError:
        raise MissingPackage(f"{package} is not installed: {cure}") from None
    if found != wanted:
        raise MissingPackage(f"{package} {found} is installed, artifacts are for {wanted}: {cure}")
