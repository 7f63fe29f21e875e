"""The repository's root and its tracked files."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


@cache
def tracked(*patterns: str) -> list[Path]:
    """Return the tracked files that match git's patterns (all without one), even if git does not trust the owner."""
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--", *patterns]
    named = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in named.split("\0") if name and (path := ROOT / name).is_file()]


def shown(path: Path) -> str:
    """Return a file's path relative to the root, for messages of failed tests."""
    return str(path.relative_to(ROOT))
