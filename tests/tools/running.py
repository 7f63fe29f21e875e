"""The tools as an operator runs them: `python -m derper TOOL …`, each a process."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any, Final

from derper.cli.derper import main

SECONDS: Final = 60.0


def tool(*words: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "derper", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=os.environ | environ,
        check=False,
    )


@dataclass(frozen=True)
class Ran:
    """The result of a tool that ran in this process, which is quicker."""

    returncode: int
    stdout: str
    stderr: str


def inline(*words: str) -> Ran:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def json_of(done: subprocess.CompletedProcess[str] | Ran) -> Any:  # noqa: ANN401  whatever it printed
    return json.loads(done.stdout)
