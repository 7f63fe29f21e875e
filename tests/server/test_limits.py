"""How much is read from a client, how many connections come in, and what SIGHUP changes."""

import json
import os
import signal
import ssl
import time
from pathlib import Path

import pytest
from derpwire import Client
from serving import Server

from derper.errors import ConfigError
from derper.protocol.keys import MeshKey
from derper.protocol.login import ClientInfo
from derper.server import rates

RATE = 200_000  # payload bytes a second
PACKET = 8_000


def limits(path: Path, **values: int) -> Path:
    path.write_text(json.dumps(values))
    return path


def relayed(sender: Client, receiver: Client, count: int) -> float:
    """Send packets and take them at the other end, in order; the seconds it took."""
    begun = time.monotonic()
    for number in range(count):
        sender.send(receiver.key, number.to_bytes(4, "big") + bytes(PACKET - 4))
    for number in range(count):
        assert receiver.packet().packet[:4] == number.to_bytes(4, "big")
    return time.monotonic() - begun


def test_a_client_is_read_at_its_rate_and_loses_nothing(tmp_path: Path) -> None:
    file = limits(tmp_path / "rates", PerClientRateLimitBytesPerSec=RATE, PerClientRateBurstBytes=0)
    with Server(tmp_path / "server", "-rate-config", str(file), tuning={}) as server:
        with Client.join(server.door) as sender, Client.join(server.door) as receiver:
            sent = 40 * PACKET
            seconds = relayed(sender, receiver, 40)
            # All beyond the burst comes at the rate; a busy machine can only make it take longer.
            assert seconds >= (sent - rates.SMALLEST_BURST) / RATE * 0.95
        assert server.counted()["rate_limit_per_client_waited"] > 0


def test_sighup_lifts_the_limit_from_who_waits_for_it(tmp_path: Path) -> None:
    file = limits(tmp_path / "rates", PerClientRateLimitBytesPerSec=1)
    with (
        Server(tmp_path / "server", "-rate-config", str(file)) as server,
        Client.join(server.door) as sender,
        Client.join(server.door) as receiver,
    ):
        for number in range(40):
            sender.send(receiver.key, bytes([number]) + bytes(PACKET - 1))
        assert receiver.packet().packet[0] == 0
        limits(file)
        mark = server.mark()
        os.kill(server.process.pid, signal.SIGHUP)
        server.logged('reloaded what="the rate limits"', mark)
        assert [receiver.packet().packet[0] for _ in range(39)] == list(range(1, 40))


def test_a_bad_file_at_sighup_is_told_and_the_old_limit_stays(tmp_path: Path) -> None:
    file = limits(tmp_path / "rates", PerClientRateLimitBytesPerSec=RATE)
    with Server(tmp_path / "server", "-rate-config", str(file)) as server:
        file.write_text("{")
        mark = server.mark()
        os.kill(server.process.pid, signal.SIGHUP)
        server.logged('not reloaded, the old one stays" what="the rate limits"', mark)
        with Client.join(server.door) as sender, Client.join(server.door) as receiver:
            assert relayed(sender, receiver, 20) >= (20 * PACKET - rates.SMALLEST_BURST) / RATE * 0.95


def test_sighup_without_a_file_of_limits_ends_nothing(tmp_path: Path) -> None:
    with Server(tmp_path / "server") as server, Client.join(server.door) as client:
        mark = server.mark()
        os.kill(server.process.pid, signal.SIGHUP)
        server.logged('reloaded what="the settings"', mark)
        client.ping()


def test_a_mesh_peer_is_not_limited(tmp_path: Path) -> None:
    file = limits(tmp_path / "rates", PerClientRateLimitBytesPerSec=1)
    mesh_key = MeshKey(bytes(range(32)))
    with (
        Server(tmp_path / "server", "-rate-config", str(file), mesh_key=mesh_key) as server,
        Client.join(server.door, info=ClientInfo(mesh_key=mesh_key)) as sender,
        Client.join(server.door) as receiver,
    ):
        assert relayed(sender, receiver, 40) < 10


def test_connections_over_the_accept_limit_are_closed_and_counted_and_the_server_goes_on(tmp_path: Path) -> None:
    flags = ("-accept-connection-limit", "0.5", "-accept-connection-burst", "3")
    with Server(tmp_path / "server", *flags, tls=True, tuning={}) as server:
        clients = [Client.join(server.door) for _ in range(3)]
        with pytest.raises((OSError, ssl.SSLError)):
            Client.join(server.door)
        for client in clients:
            client.ping()
            client.wire.close()
        counted = server.counted()
        assert counted["tls_connections_rejected"] >= 1
        assert counted["tls_connections_accepted"] == 3


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"PerClientRateLimitBytesPerSec": -1}', '{"PerClientRateLimitBytesPerSec": "fast"}',
     '{"PerClientRateBurstBytes": 1.5}'],
)  # fmt: skip
def test_a_file_that_holds_no_limits_is_a_start_up_error_in_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rates"
    path.write_text(text)
    with pytest.raises(ConfigError, match="rate limits"):
        rates.load(path)


def test_no_rate_is_no_limit_and_a_small_burst_is_raised(tmp_path: Path) -> None:
    assert rates.load(limits(tmp_path / "a")) is None
    assert rates.load(limits(tmp_path / "b", PerClientRateLimitBytesPerSec=0, PerClientRateBurstBytes=9)) is None
    assert rates.load(limits(tmp_path / "c", PerClientRateLimitBytesPerSec=5)) == (5.0, rates.SMALLEST_BURST)
