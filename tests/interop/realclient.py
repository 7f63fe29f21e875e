"""The real Tailscale client against a server: one run of derpcheck (`goclient/`) with its verdict."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parts import program

SECONDS = 30


@dataclass(frozen=True)
class Verdict:
    """The output of derpcheck, and its client's log."""

    scenario: str
    ok: bool
    error: str
    seconds: float
    notes: dict[str, Any]  # figures by name, depending on the scenario
    log: str


def check(
    scenario: str, url: str, *flags: str, env: Mapping[str, str] | None = None, seconds: int = SECONDS
) -> Verdict:
    """Run one scenario (`derpcheck -h` lists them) with the real client at the server `url`."""
    done = subprocess.run(
        [program("derpcheck"), "-url", url, "-timeout", f"{seconds}s", *flags, scenario],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=os.environ | (env or {}),
        timeout=seconds + 30,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"derpcheck {scenario} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    said = json.loads(done.stdout)
    assert said["ok"] == (done.returncode == 0)
    return Verdict(scenario, said["ok"], said.get("error", ""), said["seconds"], said["notes"], done.stderr)
