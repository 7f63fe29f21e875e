"""The rules of CONTRIBUTING, Text, as far as a regular expression can hold them."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tracked import ROOT, shown, tracked

# Generated from the code, or quoted from other programs.
NOT_PROSE: Final = re.compile(r"^(docs/(flags|metrics|close-reasons|client-api|protocol-api)\.md|tests/|.*/results/)")

RULES: Final = {
    "a bare who": re.compile(
        r"\b(whom|whoever)\b|(^|[.,;:(!?] |\b(and|or|of|to|for|with|from|by|about|as|than) )[Ww]ho\b", re.MULTILINE
    ),
    "none as a noun": re.compile(r"\bthat (is|are) none\b"),
}
ALLOWED: Final = {
    ("CONTRIBUTING.md", "a bare who"): "quotes the words",
    ("CONTRIBUTING.md", "none as a noun"): "quotes the phrase",
    ("CHANGELOG.md", "none as a noun"): "quotes the old texts",
}
FENCED: Final = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
VERBS_OF_SPEECH: Final = re.compile(r"(Give|Tell|Hear|Say)s?\b")
SENTENCE: Final = re.compile(r" (is|are|was|were|has|have|does|do|can|must|will|says|tells) |[.?!]$")


def python_prose(source: str) -> Iterator[str]:
    """Comments and docstrings."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")
    yield from docstrings(source)


def docstrings(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def rust_prose(source: str) -> Iterator[str]:
    for found in re.finditer(r"^\s*//[/!]? ?(.*)$", source, re.MULTILINE):
        yield found[1]


def page_prose(source: str) -> Iterator[str]:
    yield re.sub(r"`[^`\n]*`", "", FENCED.sub("", source))


PROSE: Final = {".py": python_prose, ".rs": rust_prose, ".md": page_prose}


def files() -> list[Path]:
    return [path for path in tracked() if path.suffix in PROSE and not NOT_PROSE.match(shown(path))]


@pytest.mark.parametrize("rule", RULES)
def test_the_prose_keeps_the_rule(rule: str) -> None:
    broken = [
        f"{shown(path)}: {text[max(found.start() - 30, 0) : found.end() + 30]!r}"
        for path in files()
        if (shown(path), rule) not in ALLOWED
        for text in PROSE[path.suffix](path.read_text("utf-8"))
        for found in RULES[rule].finditer(text)
    ]
    assert broken == []


def test_no_docstring_begins_with_a_verb_of_speech() -> None:
    sources = [path for path in tracked("*.py") if not shown(path).startswith("tests/vectors/")]
    broken = [
        f"{shown(path)}: {text.splitlines()[0]}"
        for path in sources
        for text in docstrings(path.read_text("utf-8"))
        if VERBS_OF_SPEECH.match(text)
    ]
    assert broken == []


def test_headings_are_topics() -> None:
    pages = [path for path in tracked("*.md") if not NOT_PROSE.match(shown(path))]
    headings = [
        (shown(path), heading)
        for path in pages
        for heading in re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text("utf-8")), re.MULTILINE)
    ]
    assert [heading for heading in headings if SENTENCE.search(heading[1])] == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("a bare who", "Who is over its limit waits."),
        ("a bare who", "It notifies the sender and who watches."),
        ("a bare who", "Close it for whom it was opened."),
        ("none as a noun", "A network that is none."),
    ],
)
def test_the_rules_find_what_they_are_for(rule: str, text: str) -> None:
    assert RULES[rule].search(text)


def test_there_is_prose_of_each_kind() -> None:
    assert {path.suffix for path in files()} == PROSE.keys()
    assert len(files()) > 300
    assert (ROOT / "CONTRIBUTING.md") in files()
