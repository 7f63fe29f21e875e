"""The repository works on other machines: no local paths, no dead links, no missing commands."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tracked import ROOT, shown, tracked

from derper.dataplane import DataPlane, Event

# Each with a letter in brackets, so that this file does not match itself.
MACHINE_PATHS = re.compile(r"(?<![\w.])(/[w]ork|/[r]oot|\.\./[s]hared)/")
REGISTRIES = re.compile(r"[p]ypi\.org|[p]ythonhosted|[p]roxy\.golang|[r]egistry\.npmjs")

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
MAKE = re.compile(r"\bmake ([a-z]+)\b")
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`|^ {4}[^\n]*$", re.MULTILINE | re.DOTALL)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CARGO = tomllib.loads((ROOT / "Cargo.toml").read_text())


def texts() -> Iterator[tuple[str, str]]:
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data:
            yield shown(path), data.decode()


@pytest.mark.parametrize("unwanted", [MACHINE_PATHS, REGISTRIES], ids=["paths of a machine", "hosts of registries"])
def test_no_file_contains(unwanted: re.Pattern[str]) -> None:
    assert {name: found[0] for name, text in texts() if (found := unwanted.search(text))} == {}


def without_code(markdown: str) -> str:
    return CODE.sub("", markdown)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    fenced = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.*?) *#*$", fenced.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_to_an_existing_file_and_heading() -> None:
    dead = []
    for page in tracked("*.md"):
        for link in LINK.findall(without_code(page.read_text())):
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.partition("#")
            path = (page.parent / target).resolve() if target else page
            found = path.exists() and path.is_relative_to(ROOT)
            if not found or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
                dead.append(f"{shown(page)}: {link}")
    assert dead == []


def test_the_page_of_the_tests_names_every_folder_and_every_helper() -> None:
    page = (ROOT / "tests/README.md").read_text()
    modules = tracked(":(glob)tests/*/**/*.py")
    names = {f"`{path.parent.relative_to(ROOT / 'tests')}/`" for path in modules}
    names |= {f"`{path.name}`" for path in modules if not path.name.startswith("test_")}
    assert sorted(name for name in names if name not in page) == []


def targets() -> set[str]:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    return set(phony[1].split())


def test_every_make_command_in_the_pages_is_a_target() -> None:
    commands = {
        (shown(page), word)
        for page in tracked("*.md")
        for code in CODE.finditer(page.read_text())
        for word in MAKE.findall(code[0])
    }
    assert commands
    assert sorted(command for command in commands if command[1] not in targets()) == []


def test_make_alone_shows_every_target() -> None:
    told = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert set(re.findall(r"^ +([a-z]+) ", told, re.MULTILINE)) == targets()


def test_the_version_is_in_one_place() -> None:
    version = CARGO["workspace"]["package"]["version"]
    assert "version" in PROJECT["project"]["dynamic"]
    for manifest in tracked("rust/*/Cargo.toml"):
        content = tomllib.loads(manifest.read_text())
        if "workspace" not in content:  # a separate workspace is not released with ours
            assert content["package"]["version"] == {"workspace": True}, shown(manifest)
    repeated = [shown(path) for path in tracked("src/*.py", "src/*.pyi", "rust/*.rs") if version in path.read_text()]
    assert repeated == []
    assert metadata.version("derper") == version, "installed from an older source: run make"


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text()
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^\S+==.*\\\n    --hash=sha256:", text, re.MULTILINE))
    return {canonicalize_name(package): version for package, version in pinned}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("run.txt", PROJECT["project"]["dependencies"]),
        ("dev.txt", PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]),
    ],
)
def test_the_lock_has_the_projects_requirements(name: str, wanted: list[str]) -> None:
    have = locked(name)
    for requirement in map(Requirement, wanted):
        version = have.get(canonicalize_name(requirement.name))
        assert version in requirement.specifier if version else False, f"{requirement}: run make lock"


def test_both_locks_agree() -> None:
    assert locked("run.txt").items() <= locked("dev.txt").items()


def test_the_references_version_is_in_one_file_and_the_go_modules_have_it() -> None:
    module, version = (ROOT / "REFERENCE").read_text().split()
    old_on_purpose = "tests/interop/oldclient/go.mod"
    for manifest in tracked("tests/interop/*/go.mod", f":!{old_on_purpose}"):
        required = re.search(rf"^(?:require |\t){re.escape(module)} (\S+)$", manifest.read_text(), re.MULTILINE)
        assert required is None or required[1] == version, shown(manifest)


def test_the_readme_names_the_tools_that_the_build_needs() -> None:
    readme = (ROOT / "README.md").read_text()
    assert f"Rust {CARGO['workspace']['package']['rust-version']} or newer" in readme
    assert f"Python {PROJECT['project']['requires-python'].removeprefix('>=')} or newer" in readme


def test_every_dependency_has_its_reason_in_the_architecture() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    reasons = text.partition("## Dependencies")[2].partition("\n## ")[0].lower()
    wanted = {
        Requirement(name).name for name in PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
    }
    for manifest in tracked("rust/*/Cargo.toml"):
        wanted |= tomllib.loads(manifest.read_text())["dependencies"].keys()
    ours = {"relay", "sys"}
    assert sorted(name for name in wanted - ours if name.lower() not in reasons) == []


def test_the_architecture_names_every_event_and_command_of_the_seam() -> None:
    told = set(re.findall(r"`(\w+)`", (ROOT / "ARCHITECTURE.md").read_text()))
    events = {event.__name__ for event in get_args(Event)}
    asked = {
        "counters",
        "stun_counters",
        "drops",
        "table_counts",
        "pulse",
        "members",
        "audit",
        "histograms",
        "average_queue_ms",
        "pending_connections",
        "start",
        "stop",
        "panic",
    }
    commands = {name for name in vars(DataPlane) if not name.startswith("_")} - asked
    assert sorted((events | commands) - told) == []


@pytest.mark.parametrize("tool", ["flags_page.py", "metrics_page.py", "close_reasons_page.py", "api_pages.py"])
def test_the_generated_pages_match_the_programs(tool: str) -> None:
    done = subprocess.run([sys.executable, f"tools/{tool}", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, f"write it anew: .venv/bin/python tools/{tool}"
