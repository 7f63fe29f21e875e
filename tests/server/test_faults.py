"""Bugs in the server: a bug in one connection closes that connection; any other ends the process."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bystanders import Bystanders
from derpwire import Client, closing, new_key
from serving import Server

from derper.protocol.frames import FrameType
from derper.protocol.reader import RawFrame

EXIT_BUG = 70
KEEP_ALIVE_SECONDS = 0.4


@pytest.mark.parametrize(("tls", "shards"), [(False, 1), (True, 2)], ids=["plain-1", "tls-2"])
def test_a_panic_in_a_shard_ends_the_process_at_once_and_logs_why(tmp_path: Path, shards: int, tls: bool) -> None:  # noqa: FBT001
    server = Server(tmp_path, "-shards", str(shards), tls=tls, tuning={}).start()
    with Client.join(server.door) as client, Client.join(server.door) as another, closing(server.door.connect()):
        client.send(another.key, b"hello")
        another.packet()
        began = time.monotonic()
        server.process.send_signal(signal.SIGUSR1)
        assert server.exit_code() == EXIT_BUG
        assert time.monotonic() - began < 2
        assert client.wire.rest() == another.wire.rest() == b""
    lines = [line for line in server.log().splitlines() if "this is a bug" in line]
    assert len(lines) == 1
    assert "derper-shard-0 panicked at " in lines[0]
    assert "told to, by a test" in lines[0]


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def faulty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server with a bug for one client, and with frequent keep-alives."""
    tuning = {"bug_for": KEY.public().hex(), "keep_alive": KEEP_ALIVE_SECONDS, "keep_alive_jitter": 0.1}
    with Server(tmp_path, tls=request.param, tuning=tuning) as server:
        yield server


KEY = new_key()


def test_a_bug_in_a_login_closes_only_that_connection(faulty: Server) -> None:
    with Bystanders(faulty.door) as bystanders:
        for _ in range(2):
            since = faulty.mark()
            client = Client(faulty.door.connect(), KEY)
            with client:
                client.upgrade()
                client.wire.send(client.client_info())
                assert client.wire.rest() == b""
            faulty.logged(r'level=error event="internal error .*RuntimeError', since)
            faulty.logged(r'event="connection closed" .*reason=bug', since)
            bystanders.relay_on()
        with Client.join(faulty.door) as other:
            assert other.fence() == []


def test_silent_clients_get_keep_alives_at_the_interval(faulty: Server) -> None:
    with Client.join(faulty.door) as client:
        last = time.monotonic()
        for _ in range(4):
            assert client.frame() == RawFrame(FrameType.KEEP_ALIVE, b"")
            now = time.monotonic()
            assert KEEP_ALIVE_SECONDS * 0.7 < now - last < KEEP_ALIVE_SECONDS + 1.5
            last = now
