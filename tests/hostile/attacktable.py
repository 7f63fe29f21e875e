"""The fixture that tries attacks, and the table of what came of them, which the end of a run prints.

A test module asks for both with `pytest_plugins = ["attacktable"]`.
"""

from pathlib import Path
from typing import Final

import pytest
from beside import HEAD, Beside, Row

TABLE: Final = Path(__file__).resolve().parents[2] / ".cache" / "hostile.md"
_ROWS: Final = pytest.StashKey[list[Row]]()


@pytest.fixture
def beside(request: pytest.FixtureRequest, tmp_path: Path) -> Beside:
    """What tries an attack on ours and on Go's relay."""
    return Beside(tmp_path, request.config.stash.setdefault(_ROWS, []))


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
