"""Small disks, which a test fills up."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

PAGE: Final = 4_096  # bytes, of which a file takes whole numbers
root_only: Final = pytest.mark.skipif(os.geteuid() != 0, reason="root alone may mount a file system")


def fill(disk: Path) -> Path:
    """Take all that is left of a disk; return the file that takes it."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(PAGE))
    assert os.statvfs(disk).f_bavail == 0
    return ballast
