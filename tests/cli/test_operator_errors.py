"""Errors for operators: one sentence without repetition, with the file, URL or flag concerned."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Case:
    """A command line, its exit code, and texts that its error contains; `{folder}` represents the test's folder."""

    name: str
    program: str
    words: tuple[str, ...]
    says: tuple[str, ...]
    code: int = 1


DERPER, DERPPROBE = "derper", "derpprobe"
CASES = (
    Case("ctl: no socket", DERPER, ("ctl", "--admin", "unix:{folder}/none", "reload"),
         ("unix:{folder}/none", "No such file or directory", "-admin")),
    Case("ctl: nothing listens", DERPER, ("ctl", "--admin", f"{HOST}:1", "reload"), (f"{HOST}:1", "-admin")),
    Case("ctl: no token", DERPER, ("ctl", "--admin", f"{HOST}:1", "--token-file", "{folder}/none", "reload"),
         ("{folder}/none", "No such file or directory")),
    Case("top: no socket", DERPER, ("top", "--admin", "unix:{folder}/none", "--once"), ("unix:{folder}/none",)),
    Case("doctor: no map", DERPER, ("doctor", "{folder}/nomap.json"),
         ("{folder}/nomap.json", "No such file or directory", "HOST[:PORT]")),
    Case("doctor: no map of a bare name", DERPER, ("doctor", "nomap.json"),
         ("nomap.json", "No such file or directory")),
    Case("doctor: a folder", DERPER, ("doctor", "{folder}/"), ("{folder}", "is a directory")),
    Case("doctor: not a map", DERPER, ("doctor", "{folder}/text.json"),
         ("{folder}/text.json is not a DERP map", "Regions")),
    Case("doctor: a region of a host", DERPER, ("doctor", "x.invalid", "--region", "1"), ("--region", "x.invalid")),
    Case("doctor: no key file", DERPER, ("doctor", HOST, "--key", "{folder}/none"),
         ("{folder}/none", "No such file or directory")),
    Case("derper: no map file", DERPER, ("settings", "-settings", "{folder}/none"),
         ("{folder}/none", "No such file or directory")),
    Case("derper: a mistyped flag", DERPER, ("-verify-client",),
         ("flag provided but not defined: -verify-client", "did you mean -verify-clients?"), code=2),
    Case("settings: a mistyped flag", DERPER, ("settings", "-hostnam=x"),
         ("flag provided but not defined: -hostnam", "did you mean -hostname?"), code=2),
    Case("derpprobe: a mistyped flag", DERPPROBE, ("-derpmap=x",),
         ("flag provided but not defined: -derpmap", "did you mean -derp-map?"), code=2),
    Case("derpprobe: a path as a map", DERPPROBE, ("-once", "-derp-map", "{folder}/text.json"),
         ('unsupported protocol scheme ""', "file://{folder}/text.json")),
    Case("derpprobe: another scheme", DERPPROBE, ("-once", "-derp-map", "ftp://x.invalid/m"),
         ('unsupported protocol scheme "ftp"', "file:///path/to/map.json")),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_error_names_its_subject_and_a_remedy_once(case: Case, tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("hello")
    program = Path(sys.executable).with_name(case.program)
    done = subprocess.run(
        [str(program), *(word.format(folder=tmp_path) for word in case.words)],
        cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (case.code, ""), done.stderr
    for text in case.says:
        assert text.format(folder=tmp_path) in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert [part for line in done.stderr.splitlines() for part in said_twice(line)] == []


def said_twice(line: str) -> set[str]:
    """Return the causes that a line repeats: parts of three words or more, between colons, brackets and semicolons."""
    parts = {part.strip() for part in re.split(r": |[;()]", line)}
    return {part for part in parts if len(part.split()) >= 3 and line.count(part) > 1}
