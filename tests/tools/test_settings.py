"""`derper settings`, the real program: each value, where it comes from, and no secret."""

import json
import os
import subprocess
import sys
from pathlib import Path

from derper.cli.flags import DERPER_FLAGS

PLANTED = "c2VjcmV0LWtleS1vZi1lYWI"


def settings(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "derper", "settings", "-c", str(folder / "key"), *words],
        env=os.environ | {"HOME": str(folder)} | environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_each_value_is_told_with_where_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "derper.toml"
    file.write_text("hostname = 'derp.example.com'\n[acme.eab]\nkey = '" + PLANTED + "'\nkid = 'k'")
    words = (
        "-settings",
        str(file),
        "-a",
        ":8443",
        "-verify-client-url",
        "https://me:pass@verify.example.com/v",
        "-json",
    )
    done = settings(tmp_path, *words, DERPER_SHARDS="3", TAILSCALE_DERPER_MESH_KEY="ab" * 32)
    assert done.returncode == 0, done.stderr
    told = {entry["name"]: (entry["value"], entry["source"]) for entry in json.loads(done.stdout)}
    assert told["-a"] == (":8443", "command line")
    assert told["-hostname"] == ("derp.example.com", str(file))
    assert told["-stun-port"] == ("3478", "default")
    assert told["-tcp-write-timeout"] == ("2s", "default")
    assert told["DERPER_SHARDS"] == ("3", "environment")
    assert told["-acme-eab-key"] == (f"set (from {file})", str(file))
    assert told["TAILSCALE_DERPER_MESH_KEY"] == ("set (from environment)", "environment")
    assert {f"-{flag.name}" for flag in DERPER_FLAGS} - told.keys() == {"-version"}
    for secret in (PLANTED, "ab" * 32, "me:pass"):
        assert secret not in done.stdout + done.stderr


def test_people_get_a_table_and_what_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    done = settings(tmp_path, "-home", "blank")
    assert done.returncode == 0
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("-home")] == [
        ["-home", "blank", "command", "line"]
    ]
    done = settings(tmp_path, "-home", "nonsense")
    assert done.returncode == 1
    assert done.stderr.startswith("derper settings: -home is 'nonsense'")
    assert len(done.stderr.splitlines()) == 1
