"""The errors and log lines quoted in the troubleshooting page are in the source."""

import ast
import re
from functools import cache

import pytest
from tracked import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)


@cache
def texts() -> str:
    """Return all text in string literals of the package, one literal or constant part of an f-string a line."""
    files = sorted((ROOT / "src/derper").rglob("*.py"))
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))))
    constants = (node.value for node in nodes if isinstance(node, ast.Constant))
    return "\n".join(value.replace("\n", " ") for value in constants if isinstance(value, str))


def parts_of(quoted: str) -> list[str]:
    """Return the parts of a quotation between the `…` that stand for values."""
    return [part for part in quoted.split("…") if part]


def test_the_page_quotes_errors() -> None:
    assert len(QUOTED) >= 15


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_error_is_in_the_source(quoted: str) -> None:
    assert max(map(len, parts_of(quoted))) >= 12, "too short to be looked for"
    missing = [part for part in parts_of(quoted) if part not in texts()]
    assert missing == []
