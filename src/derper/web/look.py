"""The look of every page: one stylesheet, one frame, a few elements. Pure: content in, HTML out.

No outside resource. Dark mode follows the reader's system. On a phone, tables become cards. The caller escapes the
content.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Final

STYLESHEET: Final = (files(__package__) / "look.css").read_text("utf-8")
LIVE_SCRIPT: Final = (files(__package__) / "live.js").read_text("utf-8")
"""A script that updates the figures and charts of a page with `data-live`."""


def page(title: str, body: str, *, style: str, script: str = "", live: str = "") -> str:
    """Return a whole page.

    Args:
        title: Text.
        body: HTML.
        style: The address of the stylesheet.
        script: The address of a script, if any.
        live: The address from which `LIVE_SCRIPT` gets new figures.
    """
    load = f'<script src="{html.escape(script)}" defer></script>' if script else ""
    attribute = f' data-live="{html.escape(live)}"' if live else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{html.escape(title)}</title><link rel="stylesheet" href="{html.escape(style)}">{load}</head>\n'
        f"<body{attribute}>\n{body}</body>\n</html>\n"
    )


def card(title: str, content: str, *, wide: bool = False) -> str:
    """Return a section of a page with its own heading."""
    return f'<section class="card{" wide" if wide else ""}">\n<h2>{html.escape(title)}</h2>\n{content}\n</section>\n'


def table(heads: Mapping[str, str], rows: Iterable[Sequence[str]], *, empty: str) -> str:
    """Return a table; `heads` are the columns' names and their headings, which may be links.

    `empty` replaces a table without rows.
    """
    lines = [f"<tr>{''.join(map(_cell, heads, row))}</tr>" for row in rows]
    if not lines:
        return f'<p class="faint">{html.escape(empty)}</p>'
    head = "".join(f"<th>{shown}</th>" for shown in heads.values())
    body = "\n".join(lines)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def columns(*names: str) -> dict[str, str]:
    """Return headings that are the columns' names."""
    return {name: html.escape(name) for name in names}


def _cell(of: str, content: str) -> str:
    return f'<td data-of="{html.escape(of)}">{content}</td>'
