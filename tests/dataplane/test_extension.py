"""A missing compiled part, or one of another version, is an error of one sentence; tested in a copy of the source."""

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
    """Copy the package without its compiled part."""
    package = tmp_path / "derper"
    shutil.copytree(derper.__path__[0], package, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return package


def refusal(package: Path) -> str:
    """Return the whole output of a `derper` that cannot run."""
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "derper", "-dev"], env=environment, cwd=package.parent, capture_output=True, text=True,
        check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.strip()


def test_a_missing_compiled_part_is_an_error_with_a_remedy(copied: Path) -> None:
    said = refusal(copied)
    assert "the compiled part of derper cannot be loaded" in said
    assert "run `make run`" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "found"), [('VERSION = "0.0.9"\n', "0.0.9"), ("", "one that knows no version")], ids=["older", "oldest"]
)
def test_another_version_is_an_error_that_names_both_versions(copied: Path, source: str, found: str) -> None:
    (copied / "dataplane" / "_native.py").write_text(source)
    assert f"the compiled part of derper is {found}, and the rest is {version()}; install derper again" in refusal(
        copied
    )
