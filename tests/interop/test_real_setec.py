"""The mesh key from the real setec handler, and from the cache that Go's derper and ours share."""

import base64
import json
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from parts import program
from relays import HOST, GoDerper, OurDerper, Relay, free_port
from serving import Server

MESH_KEY = "2787e8c010bbdaef0c60bcdf8e00078ea005f42366ed723938b115fa6a8619e1"
NAME = "prod/derp/meshkey"


@contextmanager
def setec(log: Path, port: int, name: str = NAME, value: str = MESH_KEY) -> Iterator[Path]:
    """Run the real handler; it writes a line to `log` for each request."""
    with (
        log.open("w") as out,
        subprocess.Popen([program("setecserver"), f"{HOST}:{port}", name, value], stdout=out) as process,
    ):
        try:
            while "serving" not in log.read_text():
                assert process.poll() is None
                time.sleep(0.01)  # only its log shows it
            yield log
        finally:
            process.kill()


def flags(port: int, cache: Path) -> Sequence[str]:
    return ("-secrets-url", f"http://{HOST}:{port}/", "-secrets-cache-dir", str(cache))


def has_mesh_key(relay: Relay) -> bool:
    # The server listens shortly before it logs this.
    return bool(relay.wait_for_log(r"mesh_key=true|DERP mesh key configured"))


@pytest.mark.parametrize("first", [OurDerper, GoDerper], ids=["ours", "go"])
def test_the_key_is_requested_once_and_both_programs_use_its_cache(tmp_path: Path, first: type[Relay]) -> None:
    cache, port = tmp_path / "folder" / "cache", free_port()
    with setec(tmp_path / "setec.log", port) as log, first(tmp_path / "a", flags=flags(port, cache)) as relay:
        assert has_mesh_key(relay)
        assert log.read_text().count("request POST /api/get") == 1
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    entry = json.loads(cache.read_text())[NAME]
    assert entry["secret"] == {"Value": base64.b64encode(MESH_KEY.encode()).decode(), "Version": 1}
    assert abs(int(entry["lastAccess"]) - time.time()) < 60
    assert isinstance(entry["lastAccess"], str)
    for kind in (OurDerper, GoDerper):  # the setec server has ended, and is not needed
        with kind(tmp_path / kind.name, flags=flags(port, cache)) as relay:
            assert has_mesh_key(relay)


def test_the_relay_serves_only_after_a_late_or_rejecting_setec_server_answers(tmp_path: Path) -> None:
    port = free_port()
    server = Server(tmp_path / "server", *flags(port, tmp_path / "cache"))
    waiting = subprocess.Popen(server.command, stderr=subprocess.PIPE, text=True)
    assert waiting.stderr is not None
    try:
        lines = iter(waiting.stderr.readline, "")
        assert any("secret not available yet; retrying" in line for line in lines)
        with setec(tmp_path / "other.log", port, name="another/secret"):
            assert any('reason="404 Not Found' in line for line in lines)
        with setec(tmp_path / "setec.log", port):
            assert any("event=serving" in line and "mesh_key=true" in line for line in lines)
    finally:
        waiting.terminate()
        waiting.communicate()
    assert waiting.returncode == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_waits_for_its_secret_can_be_stopped(tmp_path: Path, how: signal.Signals) -> None:
    command = Server(tmp_path / "server", *flags(free_port(), tmp_path / "cache")).command
    waiting = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert waiting.stderr is not None
    assert any("secret not available yet; retrying" in line for line in iter(waiting.stderr.readline, ""))
    waiting.send_signal(how)
    _, said = waiting.communicate(timeout=10)
    assert waiting.returncode == 0
    assert "Traceback" not in said
