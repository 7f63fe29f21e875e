"""Writes docs/flags.md, all flags of the programs, from the programs' own tables.

`python tools/flags_page.py` writes it; `--check` returns exit code 1 if it is out of date.
"""

import re
import sys
from collections.abc import Sequence
from typing import Any, Final

import generated

from derper.cli.flags import DERPER_FLAGS
from derper.cli.goflags import Flag
from derper.cli.probing import DERPPROBE_FLAGS

PAGE: Final = generated.ROOT / "docs" / "flags.md"
REFERENCE: Final = generated.ROOT / "docs" / "protocol" / "cli.md"

HEAD: Final = """# All flags

This page lets you look up each flag. Flags have Go's forms: `-name value` or `-name=value`, with one dash or two.
Booleans are `-name` or `-name=false`. The settings file of `-settings` has the same names. *Ours* marks flags that Go's
programs do not have ([From Go's derper and back](from-go.md)).

`tools/flags_page.py` writes this page from the tables in the programs.
"""


def page() -> str:
    """Return the whole page."""
    programs = {"derper": DERPER_FLAGS, "derpprobe": DERPPROBE_FLAGS}
    return "\n".join([HEAD, *(section(name, flags, of_the_reference(name)) for name, flags in programs.items())])


def of_the_reference(program: str) -> set[str]:
    """Return the flags of the Go program: the rows of its table that do not begin with `ours:`."""
    table = REFERENCE.read_text("utf-8").partition(f"\n## {program}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`-[^|]*) \|[^|]*\|(?! ours:)", table, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`-([a-z0-9-]+)`", row)}


def section(program: str, flags: Sequence[Flag[Any]], known: set[str]) -> str:
    """Return the table of one program; `known` are the flags that the Go program has, too."""
    rows = [row(flag, ours=flag.name not in known) for flag in sorted(flags, key=lambda flag: flag.name)]
    return generated.section(program, ("flag", "default", "meaning"), rows)


def row(flag: Flag[Any], *, ours: bool) -> tuple[str, str, str]:
    """Return a flag's row."""
    text = " ".join(flag.usage.replace("`", "").split()).replace("|", "\\|")
    default = "" if flag.default == flag.kind.zero else f"`{flag.kind.show(flag.default)}`"
    return f"`-{flag.name}`", default, f"{text}{' *(ours)*' if ours else ''}"


if __name__ == "__main__":
    sys.exit(generated.main(PAGE, page(), sys.argv[1:]))
