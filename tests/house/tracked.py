"""The repository as its tests see it: its root, and the files that it tracks."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


@cache
def tracked(*patterns: str) -> list[Path]:
    """The tracked files that match git's patterns (all without one), also where git does not trust the owner."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--", *patterns]
    named = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in named.split("\0") if name and (path := ROOT / name).is_file()]


def shown(path: Path) -> str:
    """A file as a failed test names it."""
    return str(path.relative_to(ROOT))
