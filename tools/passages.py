"""Prints passages of the prose, drawn at random, for the second-reading test of CONTRIBUTING.

    python tools/passages.py SEED [COUNT]

A passage is a docstring, a run of comment lines, a paragraph or table row of a page, or a text that the program logs or
raises. The same seed prints the same passages of the same tree.
"""

import ast
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_WORDS: Final = 6  # fewer are no passage
_COMMENTS: Final = re.compile(r"(?:^[ \t]*(?:#(?!!)|//[/!]?) .*\n)+", re.MULTILINE)
_CALLS: Final = {"debug", "info", "warning", "error", "exception"}


def passages(path: Path) -> Iterator[str]:
    """Yield the passages of one file."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        without_code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        for paragraph in re.split(r"\n\n+", without_code):
            yield from paragraph.splitlines() if paragraph.startswith("|") else [paragraph]
        return
    for found in _COMMENTS.finditer(text):
        yield re.sub(r"^[ \t]*(?:#|//[/!]?) ?", "", found[0], flags=re.MULTILINE)
    if path.suffix == ".py":
        yield from _of_python(ast.parse(text))


def _of_python(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            yield ast.unparse(node.exc.args[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CALLS:
            yield ast.unparse(node.args[0]) if node.args else ""


def main(words: list[str]) -> int:
    """Print the passages and return the exit code."""
    seed, count = int(words[0]), int(words[1]) if len(words) > 1 else 30
    listed = subprocess.run(["git", "ls-files", "*.py", "*.rs", "*.md"], cwd=ROOT, check=True, capture_output=True)  # noqa: S607  git is on the PATH
    files = [ROOT / name for name in listed.stdout.decode().split()]
    found = [
        (str(path.relative_to(ROOT)), " ".join(passage.split()))
        for path in files
        for passage in passages(path)
        if len(passage.split()) >= _WORDS
    ]
    for number, (name, passage) in enumerate(random.Random(seed).sample(found, count), 1):  # noqa: S311  no secret
        sys.stdout.write(f"{number}. {name}\n   {passage}\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
