"""Small disks for tests that fill them."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

PAGE: Final = 4_096  # bytes; a file uses whole pages
root_only: Final = pytest.mark.skipif(os.geteuid() != 0, reason="root alone may mount a file system")


def fill(disk: Path) -> Path:
    """Use all free space of a disk; return the file that uses it."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(PAGE))
    assert os.statvfs(disk).f_bavail == 0
    return ballast
