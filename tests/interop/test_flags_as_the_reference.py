"""The page of flags marks exactly the flags that the real Go programs lack as ours."""

import re
import subprocess

import pytest
from parts import program
from tracked import ROOT

from derper.cli.flags import DERPER_FLAGS
from derper.cli.probing import DERPPROBE_FLAGS

OURS = {"derper": DERPER_FLAGS, "derpprobe": DERPPROBE_FLAGS}


def flags_of_go(name: str) -> set[str]:
    done = subprocess.run([program(name), "-h"], capture_output=True, text=True, timeout=60, check=False)
    found = set(re.findall(r"^  -([a-z0-9-]+)", done.stderr, re.MULTILINE))
    assert len(found) > 15, done.stderr
    return found


def rows_of_the_page(name: str) -> dict[str, bool]:
    """Return each flag of a program's table, and whether its row is marked as ours."""
    text = (ROOT / "docs/flags.md").read_text()
    table = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    return {flag: "*(ours)*" in row for flag, row in re.findall(r"^\| `-([a-z0-9-]+)` \|(.*)\|$", table, re.MULTILINE)}


@pytest.mark.parametrize("name", OURS)
def test_the_page_marks_as_ours_exactly_the_flags_that_go_does_not_have(name: str) -> None:
    rows, go = rows_of_the_page(name), flags_of_go(name)
    assert rows.keys() == {flag.name for flag in OURS[name]}
    assert {flag for flag, is_ours in rows.items() if is_ours} == rows.keys() - go
    assert go <= rows.keys(), "flags of Go's program that ours lacks"
