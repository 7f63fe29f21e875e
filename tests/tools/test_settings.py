"""`derper settings` as a process: each value and its source, without secrets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from derper.cli.environment import Environment
from derper.cli.flags import DERPER_FLAGS
from derper.cli.settings import LEAST_QUEUED_BYTES
from derper.cli.tools.settings import main

PLANTED = "c2VjcmV0LWtleS1vZi1lYWI"


def settings(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "derper", "settings", "-c", str(folder / "key"), *words],
        env=os.environ | {"HOME": str(folder)} | environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_each_value_is_shown_with_its_source(tmp_path: Path) -> None:
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


def test_the_text_output_is_a_table_and_invalid_settings_are_one_sentence(tmp_path: Path) -> None:
    done = settings(tmp_path, "-home", "blank")
    assert done.returncode == 0
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("-home")] == [
        ["-home", "blank", "command", "line"]
    ]
    done = settings(tmp_path, "-home", "nonsense")
    assert done.returncode == 1
    assert done.stderr.startswith("derper settings: -home is 'nonsense'")
    assert len(done.stderr.splitlines()) == 1


def values(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    assert done.returncode == 0, done.stderr
    return {entry["name"]: (entry["value"], entry["source"]) for entry in json.loads(done.stdout)}


def test_a_default_that_depends_on_the_machine_is_shown_resolved(tmp_path: Path) -> None:
    shown = values(settings(tmp_path, "-json", XDG_CACHE_HOME=str(tmp_path / "cache"), DERPER_SHARDS=""))
    around = Environment.of_this_process()
    assert shown["-shards"] == (str(around.cores), "default")
    assert shown["-socket"] == ("/var/run/tailscale/tailscaled.sock", "default")
    assert shown["-tls"] == ("on", "default")
    assert shown["-certdir"] == (str(tmp_path / "cache/tailscale/derper-certs"), "default")
    assert shown["-acme-directory"] == ("https://acme-v02.api.letsencrypt.org/directory", "default")
    assert int(shown["-max-queued-bytes"][0]) >= LEAST_QUEUED_BYTES
    assert shown["-max-queued-bytes"] == (str(around.memory // 4), "default")


def test_the_default_key_file_of_root_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    around = Environment({"HOME": "/root"}, is_root=True, cores=3, memory=8 << 30)
    monkeypatch.setattr(Environment, "of_this_process", lambda: around)
    assert main(["-json"]) == 0
    shown = {entry["name"]: entry["value"] for entry in json.loads(capsys.readouterr().out)}
    assert (shown["-c"], shown["-shards"], shown["-max-queued-bytes"]) == (
        "/var/lib/derper/derper.key",
        "3",
        str(2 << 30),
    )


def test_a_value_set_by_another_flag_or_a_variable_is_shown_resolved(tmp_path: Path) -> None:
    words = ("-dev", "-admin=unix", "-max-queued-bytes=0", "-json")
    shown = values(settings(tmp_path, *words, RUNTIME_DIRECTORY="/run/derper", DERPER_SHARDS="3", DERP_DEBUG_LOGS="1"))
    assert shown["-a"] == (":3340", "default")
    assert shown["-c"] == ("", "command line")
    assert shown["-tls"] == ("off", "default")
    assert shown["-acme-directory"] == ("", "default")
    assert shown["-admin"] == ("unix:/run/derper/admin.sock", "command line")
    assert shown["-shards"] == ("3", "DERPER_SHARDS")
    assert shown["-log-level"] == ("debug", "DERP_DEBUG_LOGS")
    assert int(shown["-max-queued-bytes"][0]) >= LEAST_QUEUED_BYTES
