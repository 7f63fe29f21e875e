"""A package whose compiled part is missing or another's says so in one sentence: a copy of the source, without ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import derper
from derper._version import version


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The package without its compiled part."""
    package = tmp_path / "derper"
    shutil.copytree(derper.__path__[0], package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return package


def refusal(package: Path) -> str:
    """What `derper` says that cannot run, whole."""
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "derper", "-dev"], env=environment, cwd=package.parent, capture_output=True, text=True,
        check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


def test_without_it_the_remedy_is_told(copied: Path) -> None:
    said = refusal(copied)
    assert "the compiled part of derper cannot be loaded" in said
    assert "run `make run`" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "found"), [('VERSION = "0.0.9"\n', "0.0.9"), ("", "one that knows no version")], ids=["older", "oldest"]
)
def test_one_of_another_version_is_refused_with_both_named(copied: Path, source: str, found: str) -> None:
    (copied / "dataplane" / "_native.py").write_text(source)
    assert f"the compiled part of derper is {found}, and the rest is {version()}; install derper again" in refusal(
        copied
    )
