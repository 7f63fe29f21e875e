"""The wall around protocol/: its callers pass bytes, time and entropy; it does no I/O itself."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import derper.protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES = ["derper.protocol"] + [
    module.name for module in pkgutil.walk_packages(derper.protocol.__path__, "derper.protocol.")
]
SOURCES = sorted(Path(derper.protocol.__path__[0]).rglob("*.py"))

FORBIDDEN = ("asyncio", "socket", "_socket", "ssl", "_ssl", "select", "selectors", "threading", "subprocess")
FORBIDDEN_OF_OURS = ("derper.dataplane", "derper.server", "derper.client", "derper.cli", "derper.prober")

# What a module of protocol/ may import. `nacl.bindings` and not `nacl`: the rest of PyNaCl draws random nonces.
ALLOWED = {
    "__future__",
    "base64",
    "binascii",
    "collections.abc",
    "dataclasses",
    "datetime",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "re",
    "struct",
    "typing",
    "urllib.parse",
    "zlib",
    "h11",
    "nacl.bindings",
    "nacl.exceptions",
    "derper.errors",
}
ALLOWED_FOR_TYPES = {"cryptography.hazmat.primitives.asymmetric.ed25519"}

# Names with which an allowed module could still read a clock or draw random bytes.
FORBIDDEN_NAMES = {"now", "utcnow", "today", "fromtimestamp", "randombytes", "urandom", "random", "open", "getenv"}


def imports(node: ast.AST, *, for_types: bool = False) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names):
                yield from ((alias.name, for_types) for alias in names)
            case ast.ImportFrom(module, names, 0) if module == "derper.protocol":
                yield from ((f"{module}.{alias.name}", for_types) for alias in names)
            case ast.ImportFrom(module, _, 0):
                yield module or "", for_types
            case ast.ImportFrom():
                yield "(a relative import)", for_types
            case ast.If(ast.Name("TYPE_CHECKING")):
                yield from imports(child, for_types=True)
            case _:
                yield from imports(child, for_types=for_types)


@cache
def loaded_after(statement: str) -> frozenset[str]:
    """Run a statement in a new interpreter; return the modules that are loaded then."""
    program = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    where = str(Path(derper.protocol.__path__[0]).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": where}, check=True, capture_output=True, text=True
    )
    return frozenset(done.stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_module_loads_no_module_that_does_io(module: str) -> None:
    loaded = loaded_after(f"import {module}")
    assert module in loaded
    bare = loaded_after("pass")
    assert sorted((loaded - bare).intersection(FORBIDDEN)) == []
    assert [name for name in sorted(loaded) if name.startswith(FORBIDDEN_OF_OURS)] == []


def test_the_check_detects_an_impure_import() -> None:
    assert "asyncio" in loaded_after("import asyncio")
    assert "socket" in loaded_after("import cryptography.x509")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_a_module_imports_only_what_is_known_to_be_pure(source: Path) -> None:
    for name, for_types in imports(ast.parse(source.read_text("utf-8"))):
        if not name.startswith("derper.protocol."):
            assert name in (ALLOWED | ALLOWED_FOR_TYPES if for_types else ALLOWED)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_a_module_uses_no_clock_and_no_random_source(source: Path) -> None:
    tree = ast.parse(source.read_text("utf-8"))
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in called}
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert sorted(names.intersection(FORBIDDEN_NAMES) - own) == []


def test_the_reading_order_lists_every_module() -> None:
    order = (derper.protocol.__doc__ or "").split()
    assert [name for name in MODULES[1:] if name.rpartition(".")[2] not in order] == []
