"""A full disk at each write of the relay: its log, its key, its certificates, and its ACME files.

Root mounts a file system of 64 kB for each test.
"""

import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from beside import Beside, Target, for_seconds
from disks import PAGE, fill, root_only
from relays import GoDerper, OurDerper, Relay, RelayError

pytest_plugins = ["attacktable"]
pytestmark = root_only

FULL = "No space left on device"
LOG_SECONDS = 30.0
LOG_FILLS_SECONDS = 3.0  # for the last page of the disk, also on a slow machine


@pytest.mark.parametrize("missing", ["key", "certificate"])
def test_a_first_start_ends_with_a_sentence(tmp_path: Path, disk: Path, missing: str) -> None:
    """No partial file is left that a second start, with free space, would load."""
    flags = ("-c", str(disk / "derper.key")) if missing == "key" else ("-certdir", str(disk / "certs"))
    ballast = fill(disk)
    relay = OurDerper(tmp_path / "ours", tls=True, flags=flags)
    with pytest.raises(RelayError):
        relay.start()
    (line,) = re.findall(rf".*{FULL}.*", relay.log())
    assert "free some space" in line
    assert str(disk) in line
    assert "Traceback" not in relay.log()
    assert sorted(path.name for path in disk.rglob("*")) == ["ballast"] + ["certs"] * (missing == "certificate")
    ballast.unlink()
    with relay:
        assert relay.alive()


def test_a_log_on_a_full_disk(beside: Beside, disk: Path) -> None:
    """The relay logs again when there is free space."""

    def start(kind: type[Relay], folder: Path, flags: Sequence[str]) -> Relay:
        for path in disk.iterdir():
            path.unlink()
        log = f'exec "$@" >{disk}/{kind.name}.log 2>&1'
        return kind(folder, tls=True, flags=flags, before=("sh", "-c", log, "sh"))

    def attack(target: Target) -> str:
        ballast = fill(disk)
        log = disk / f"{target.relay.name}.log"
        for _ in for_seconds(LOG_FILLS_SECONDS):
            if target.is_ours:
                os.kill(target.relay.pid, signal.SIGHUP)  # this ends Go's relay
            connection = target.raw_door.connect()
            connection.send(b"GET / HTTP/1.1\r\n\r\n")
            connection.close()
        full = log.stat().st_size
        assert full % PAGE == 0, "the log did not reach the disk's end"
        ballast.unlink()
        if target.is_ours:
            os.kill(target.relay.pid, signal.SIGHUP)
            deadline = time.monotonic() + LOG_SECONDS
            while log.stat().st_size == full:
                assert time.monotonic() < deadline, "nothing is logged although there is space again"
                time.sleep(0.05)
        return f"its log stopped at {full:,} bytes"

    beside("its log on a full disk", attack, start=start).ours.is_unharmed()


def test_a_restart_on_a_full_disk(tmp_path: Path, disk: Path) -> None:
    for kind in (OurDerper, GoDerper):
        own = disk / kind.name
        relay = kind(tmp_path / kind.name, tls=True, flags=("-c", str(own / "derper.key"), "-certdir", str(own)))
        own.mkdir()
        with relay:
            pass
        fill(disk)
        with relay:
            assert relay.alive()
        (disk / "ballast").unlink()
