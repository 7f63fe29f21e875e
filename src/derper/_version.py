"""The version of the installed package.

Its metadata is read without a library: importing `importlib.metadata` takes a third of the time of `derper -version`.
Paths are strings for the same reason.
"""

import os
import sys
from collections.abc import Iterator
from functools import cache


@cache
def version() -> str:
    """Return the package's version; "0+source" for source that was not installed."""
    return next(filter(None, map(_stated, _metadata_files())), "0+source")


def _metadata_files() -> Iterator[str]:
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")  # noqa: PTH208
        except OSError:  # not a folder
            continue
        for name in names:
            if name.startswith("derper-") and name.endswith(".dist-info"):
                yield os.path.join(folder, name, "METADATA")  # noqa: PTH118


def _stated(file: str) -> str:
    try:
        with open(file, encoding="utf-8") as lines:  # noqa: PTH123
            return next((line.partition(":")[2].strip() for line in lines if line.startswith("Version:")), "")
    except OSError:
        return ""
