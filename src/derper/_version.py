"""The version of the installed package, asked for once."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed


def version() -> str:
    """The package's version; "0+source" where the source runs without having been installed."""
    try:
        return _installed("derper")
    except PackageNotFoundError:
        return "0+source"
