"""The shared part of the programs that write a page of docs/ from the code: writing or checking the page."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


def section(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table under its heading."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(cells)} |" for cells in lines), ""])


def main(page: Path, text: str, words: Sequence[str]) -> int:
    """Write the page, or with `--check` only compare it; return the exit code."""
    if list(words) == ["--check"]:
        return int(not page.exists() or page.read_text("utf-8") != text)
    page.write_text(text, "utf-8")
    return 0
