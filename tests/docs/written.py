"""The contents of the pages for operators: command lines, and snippets by language, and their adaptation to tests.

A page has paths and names of some machine. `here` replaces them with a test's own and keeps all other words, so the
test runs the page's line.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tracked import shown, tracked

# The library's references are not for operators, and have fields of a DERP map that look like metrics.
NO_REFERENCES: Final = ":!docs/*-api.md"
PAGES: Final = {shown(page): page for page in tracked("README.md", ":(glob)docs/*.md", "packaging/*.md", NO_REFERENCES)}

_FENCED = re.compile(r"^```([\w-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_COMMAND = re.compile(r"^\s*(?:ExecStart=)?(?:/\S*/)?(derper|derpprobe) (.*)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"[A-Z]*…|[A-Z]+")
_PLACE = re.compile(r"(?<![\w.])/(?:var/lib|etc|run)/")


def snippets(page: str, language: str = "") -> list[str]:
    """Return the fenced snippets of a language; without a language, also indented ones."""
    text = PAGES[page].read_text("utf-8")
    fenced = [code for said, code in _FENCED.findall(text) if said == language]
    return fenced if language else fenced + _INDENTED.findall(_FENCED.sub("", text))


def commands(page: str, *having: str) -> list[tuple[str, ...]]:
    """Return the command lines with these words, in the page's order, starting with the program's name.

    Comments and placeholders are left out.
    """
    text = PAGES[page].read_text("utf-8")
    inline = _INLINE.findall(_INDENTED.sub("", _FENCED.sub("", text)))
    codes = [code for _, code in _FENCED.findall(text)] + _INDENTED.findall(_FENCED.sub("", text)) + inline
    found = []
    for code in codes:
        for program, rest in _COMMAND.findall(code.replace("\\\n", " ")):
            words = shlex.split(rest.partition(" | ")[0], comments=True)
            line = (program, *(word for word in words if not _PLACEHOLDER.fullmatch(word)))
            if len(line) > 1 and all(word in line for word in having):
                found.append(line)
    return found


def the_command(page: str, *having: str) -> tuple[str, ...]:
    """Return the only command line with these words, without the program's name."""
    (line,) = commands(page, *having)
    return line[1:]


def all_commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every command line, with its page."""
    for page in PAGES:
        for line in commands(page):
            yield page, line


def mentioned_flags() -> Iterator[tuple[str, str]]:
    """Yield each word in code that looks like a flag, with its page."""
    for page, path in PAGES.items():
        for code in _INLINE.findall(_FENCED.sub("", path.read_text("utf-8"))):
            yield from ((page, word) for word in re.findall(r"(?<!\S)--?[a-z](?:[a-z0-9-]*[a-z0-9])?(?![\w*-])", code))


def here(words: tuple[str, ...], folder: Path, **instead: str) -> tuple[str, ...]:
    """Return the words with a test's paths: its folder for the system's, and the values of `instead` for others."""
    made = []
    for word in words:
        text = _PLACE.sub(f"{folder}/", instead.get(re.sub(r"\W", "_", word), word))
        if text != word and str(folder) in text:
            Path(text[text.index(str(folder)) :]).parent.mkdir(parents=True, exist_ok=True)
        made.append(text)
    return tuple(made)
