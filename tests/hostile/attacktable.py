"""The fixtures of attacks, and the table of their results, printed at the end of a run.

A test module loads them with `pytest_plugins = ["attacktable"]`.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from beside import HEAD, Beside, Row

TABLE: Final = Path(__file__).resolve().parents[2] / ".cache" / "hostile.md"
_ROWS: Final = pytest.StashKey[list[Row]]()


@pytest.fixture
def beside(request: pytest.FixtureRequest, tmp_path: Path) -> Beside:
    """The runner of an attack on our relay and on Go's."""
    return Beside(tmp_path, request.config.stash.setdefault(_ROWS, []))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and write it to `.cache/hostile.md`."""
    rows = config.stash.get(_ROWS, [])
    if not rows:
        return
    lines = [*HEAD, *(line for row in rows for line in row.lines())]
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join((*lines, "")))
    terminalreporter.section(f"attacks (also in {TABLE})")
    for line in lines:
        terminalreporter.write_line(line)
