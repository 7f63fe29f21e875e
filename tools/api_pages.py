"""Writes docs/client-api.md and docs/protocol-api.md from the signatures and docstrings of the library.

`python tools/api_pages.py` writes both; `--check` returns exit code 1 if one is out of date. An error names the
undocumented public name (`docstrings`).
"""

import ast
import re
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import generated
from docstrings import Documented, Module, Row

SOURCES: Final = generated.ROOT / "src"
DOCS: Final = generated.ROOT / "docs"
PAGES: Final = {"derper.client": DOCS / "client-api.md", "derper.protocol": DOCS / "protocol-api.md"}

HEADS: Final = {
    "derper.client": """# The client: reference

This page lets you look up each name that `derper.client` exports. [A DERP client for Python](client.md) shows how to
use them. `tools/api_pages.py` writes this page from the docstrings.
""",
    "derper.protocol": """# The protocol library: reference

This page lets you look up each name that `derper.protocol` exports. The package converts between DERP's messages and
bytes, without I/O, clock or random numbers, for clients and servers. [protocol/](protocol/README.md) describes the wire
format. `tools/api_pages.py` writes this page from the docstrings.
""",
}


def exported(package: str) -> dict[str, str]:
    """Return the module that defines each name of a package's `__all__`."""
    tree = ast.parse((SOURCES / package.replace(".", "/") / "__init__.py").read_text("utf-8"))
    return {
        alias.name: node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def pages() -> dict[Path, str]:
    """Return the text of each page."""
    protocol = exported("derper.protocol")
    written = {}
    for package, page in PAGES.items():
        names = exported(package)
        elsewhere = protocol if package != "derper.protocol" else {}
        lines = [HEADS[package], *index(names, elsewhere), ""]
        for name in sorted(names.keys() - elsewhere.keys(), key=str.casefold):
            lines += section(Module(source_of(names[name])).document(name))
        written[page] = "\n".join(lines)
    return written


def source_of(module: str) -> Path:
    """Return a module's file."""
    return SOURCES / f"{module.replace('.', '/')}.py"


def index(names: Iterable[str], elsewhere: Container[str]) -> Iterator[str]:
    """Yield the lines that link to each name, on this page or on that of the protocol."""
    for name in sorted(names, key=str.casefold):
        page = PAGES["derper.protocol"].name if name in elsewhere else ""
        yield f"- [{name}]({page}#{name.lower()})"


def section(item: Documented) -> Iterator[str]:
    """Yield the lines of one public name."""
    yield from (f"## {item.name}", "", "```text", item.signature, "```", "", item.text, "")
    yield from details(item)
    for method in item.methods:
        yield from (f"**`{method.signature}`**", "", method.text, "")
        yield from details(method)
    if item.source:
        yield from (f"Source: {', '.join(links(item.source))}.", "")


def details(item: Documented) -> Iterator[str]:
    """Yield the tables of arguments, attributes and errors, and the result."""
    yield from fields("argument", item.arguments)
    yield from fields("attribute", item.attributes)
    if item.returns:
        yield from (f"Returns: {item.returns}", "")
    if item.raises:
        yield from table(("raises", "when"), [(f"`{name}`", meaning) for name, meaning in item.raises.items()])


def fields(what: str, rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table of arguments or attributes."""
    if rows:
        cells = [(code(row.name), code(row.type), code(row.default), row.meaning) for row in rows]
        yield from table((what, "type", "default", "meaning"), cells)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table."""
    for cells in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(cells)} |"
    yield ""


def code(text: str) -> str:
    """Return code for a table's cell."""
    return "`" + text.replace("|", "\\|") + "`" if text else ""


def links(source: str) -> Iterator[str]:
    """Yield the links of a `Source:` line: pages with sections, separated by semicolons; an RFC is unchanged."""
    for part in source.removesuffix(".").split("; "):
        page, _, headings = part.partition(", ")
        if not page.startswith("docs/"):
            yield part
            continue
        target = page.removeprefix("docs/")
        for heading in re.split(r", | and ", headings) if headings else [""]:
            anchor = "#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") if heading else ""
            yield f"[{heading or target}]({target}{anchor})"


if __name__ == "__main__":
    sys.exit(max([generated.main(page, text, sys.argv[1:]) for page, text in pages().items()]))
