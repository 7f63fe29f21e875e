"""The walls between packages: permitted imports, the place of unsafe code, the share of Rust."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracked import ROOT, shown, tracked

UNSAFE_LINES = 300
# The goal is 40 %. The data plane came first, so for now it is more: lower this as the Python around it grows.
MOST_RUST = 0.60

# Folders of Rust that are in no wheel.
TEST_FOLDERS = {"sim", "fuzz", "loom", "tests"}
# A module only for tests: in the file, or, if it ends with a semicolon, in separate files.
TEST_MODULE = re.compile(
    r"^#\[cfg\((?:test|any\(test, .*\))\)\]\n(?:#\[.*\]\n)*(?:pub(?:\(crate\))? )?mod (\w+)( \{|;)$", re.MULTILINE
)


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def test_only_the_data_planes_python_part_imports_the_extension() -> None:
    inside = (ROOT / "src/derper/dataplane", ROOT / "tests/house")
    outside = [path for path in tracked("*.py") if not path.is_relative_to(inside[0]) and path.parent != inside[1]]
    assert len(outside) > 10
    assert [shown(path) for path in outside if any("_native" in name for name in imported(path.read_text()))] == []


# Each package, and the packages and modules of ours that it must not import.
PROGRAMS = ("derper.cli", "derper.prober", "derper.client", "derper.tools")
WALLS = {
    "protocol": (*PROGRAMS, "derper.server", "derper.dataplane", "derper.credentials", "derper.host", "derper.config"),
    "dataplane": (*PROGRAMS, "derper.server"),
    "server": PROGRAMS,
    "host": (*PROGRAMS, "derper.server", "derper.credentials", "derper.config"),
    "metrics": (*PROGRAMS, "derper.server"),
    "web": (*PROGRAMS, "derper.server"),
    "credentials": (*PROGRAMS, "derper.server"),
    "prober": ("derper.cli", "derper.server", "derper.tools"),
    "tools": ("derper.cli", "derper.server", "derper.prober"),
}


@pytest.mark.parametrize("package", WALLS)
def test_a_package_does_not_import_those_above_it(package: str) -> None:
    modules = tracked(f"src/derper/{package}/*.py")
    assert len(modules) > 2
    broken = [
        f"{shown(module)} imports {name}"
        for module in modules
        for name in imported(module.read_text())
        if f"{name}.".startswith(tuple(f"{above}." for above in WALLS[package]))
    ]
    assert broken == []


def test_the_client_imports_only_the_protocol() -> None:
    ours = [
        (shown(path), name)
        for path in tracked("src/derper/client/*.py")
        for name in imported(path.read_text())
        if name.startswith("derper.")
    ]
    assert len(ours) > 10
    below = ("derper.protocol", "derper.errors", "derper.client", "derper.certname")
    assert [(path, name) for path, name in ours if not name.startswith(below)] == []


def test_the_relay_crate_forbids_unsafe_code() -> None:
    assert re.search(r"^#!\[forbid\(unsafe_code\)\]$", (ROOT / "rust/relay/src/lib.rs").read_text(), re.MULTILINE)


def test_unsafe_code_is_in_one_small_crate_with_comments_on_its_safety() -> None:
    lines = 0
    for path in tracked("rust/*.rs"):
        text = path.read_text()
        blocks = re.findall(r"\bunsafe (?:\{|impl)", text)
        functions = re.findall(r"\bunsafe fn", text)
        if not path.is_relative_to(ROOT / "rust/sys"):
            assert not blocks + functions, shown(path)
            continue
        lines += 0 if "tests" in path.parts else text.count("\n")
        assert text.count("// SAFETY: ") >= len(blocks), shown(path)
        assert text.count("/// # Safety") == len(functions), shown(path)
    assert 0 < lines < UNSAFE_LINES


def test_most_of_the_product_is_python() -> None:
    python = sum(path.read_text().count("\n") for path in tracked("src/*.py", "src/*.pyi"))
    rust = sum(path.read_text().count("\n") - lines_of_tests(path) for path in product_files())
    assert rust / (rust + python) < MOST_RUST, f"{rust} lines of Rust beside {python} of Python"


def product_files() -> list[Path]:
    files = [path for path in tracked("rust/*.rs") if not TEST_FOLDERS & {*path.relative_to(ROOT).parts}]
    for_tests = {
        (path.parent if path.stem in ("lib", "mod") else path.with_suffix("")) / name
        for path in files
        for name, opening in TEST_MODULE.findall(path.read_text())
        if opening == ";"
    }
    return [path for path in files if not for_tests & {path.with_suffix(""), *path.parents}]


def lines_of_tests(path: Path) -> int:
    """Return the number of lines of the tests at the end of a file."""
    text = path.read_text()
    inside = next((module for module in TEST_MODULE.finditer(text) if module[2] == " {"), None)
    return text[inside.start() :].count("\n") if inside else 0
