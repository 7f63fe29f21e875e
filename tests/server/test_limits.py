"""Rate limits of clients, limits on connections, and their reload with SIGHUP."""

import json
import os
import re
import signal
import socket
import ssl
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from bystanders import Bystanders
from derpwire import HOST, SECONDS, Client, RelayAddress
from serving import Server

from derper.errors import ConfigError
from derper.protocol.frames import Health, NotePreferred
from derper.protocol.keys import MeshKey, NodePrivate
from derper.protocol.login import ClientInfo, ServerInfo
from derper.server import rates

RATE = 200_000  # payload bytes a second
PACKET = 8_000
KNOWN = "PerClientRateLimitBytesPerSec, PerClientRateBurstBytes, PerKey, TotalRateLimitBytesPerSec, TotalRateBurstBytes"


def limits(path: Path, **values: int) -> Path:
    path.write_text(json.dumps(values))
    return path


def relayed(sender: Client, receiver: Client, count: int) -> float:
    """Send packets and receive them in order at the other end; return the seconds it took."""
    begun = time.monotonic()
    for number in range(count):
        sender.send(receiver.key, number.to_bytes(4, "big") + bytes(PACKET - 4))
    for number in range(count):
        assert receiver.packet().packet[:4] == number.to_bytes(4, "big")
    return time.monotonic() - begun


def test_a_client_is_read_at_its_rate_and_loses_no_packet(tmp_path: Path) -> None:
    file = limits(tmp_path / "rates", PerClientRateLimitBytesPerSec=RATE, PerClientRateBurstBytes=0)
    with Server(tmp_path / "server", "-rate-config", str(file), tuning={}) as server:
        with Client.join(server.door) as sender, Client.join(server.door) as receiver:
            sent = 40 * PACKET
            seconds = relayed(sender, receiver, 40)
            # After the burst, packets come at the rate; a busy machine can only make it slower.
            assert seconds >= (sent - rates.SMALLEST_BURST) / RATE * 0.95
        assert server.counted()["rate_limit_per_client_waited"] > 0


def test_sighup_lifts_the_limit_of_a_client_that_waits(tmp_path: Path) -> None:
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


def test_a_bad_file_at_sighup_is_logged_and_the_old_limit_stays(tmp_path: Path) -> None:
    file = limits(tmp_path / "rates", PerClientRateLimitBytesPerSec=RATE)
    with Server(tmp_path / "server", "-rate-config", str(file)) as server:
        file.write_text("{")
        mark = server.mark()
        os.kill(server.process.pid, signal.SIGHUP)
        server.logged('reload failed; the previous state stays in force" what="the rate limits"', mark)
        with Client.join(server.door) as sender, Client.join(server.door) as receiver:
            assert relayed(sender, receiver, 20) >= (20 * PACKET - rates.SMALLEST_BURST) / RATE * 0.95


def test_sighup_without_a_file_of_limits_does_not_end_the_server(tmp_path: Path) -> None:
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
def test_an_invalid_file_of_limits_is_a_start_up_error_in_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rates"
    path.write_text(text)
    with pytest.raises(ConfigError, match="rate limits"):
        rates.load(path)


def test_no_rate_is_no_limit_and_a_small_burst_is_raised(tmp_path: Path) -> None:
    assert rates.load(limits(tmp_path / "a")) == rates.Limits()
    unlimited = limits(tmp_path / "b", PerClientRateLimitBytesPerSec=0, PerClientRateBurstBytes=9)
    assert rates.load(unlimited).default is None
    found = rates.load(limits(tmp_path / "c", PerClientRateLimitBytesPerSec=5))
    assert found.default == (5.0, rates.SMALLEST_BURST)


def test_the_file_is_read_as_the_go_server_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "rates"
    path.write_text('{"perclientratelimitbytespersec": 5, "PerClientRateBurstBytes": null, "Other": [1.5]}')
    assert rates.load(path).default == (5.0, rates.SMALLEST_BURST)
    path.write_text("null")
    assert rates.load(path) == rates.Limits()
    path.write_text('{"PerClientRateLimitBytesPerSec": 18446744073709551615}')
    assert rates.load(path).default == (float(2**64 - 1), rates.SMALLEST_BURST)


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ('{"PerClientRateLimit": 5}',
         ['unknown member "PerClientRateLimit" has no effect; did you mean PerClientRateLimitBytesPerSec?']),
        (r'{"x\n": 5}', [rf'unknown member "x\n" has no effect; known are {KNOWN}']),
        ('{"PerKey": {"%s": {"RateLimit": 1}}}' % ("nodekey:" + "11" * 32),
         ['unknown member "RateLimit" has no effect; did you mean RateLimitBytesPerSec?']),
        ('{"TotalRateBurstBytes": 70000}', ["TotalRateBurstBytes has no effect; set TotalRateLimitBytesPerSec, too"]),
        ('{"PerKey": {"%s": {"RateBurstBytes": 1}}}' % ("nodekey:" + "11" * 32),
         ["RateBurstBytes has no effect; set RateLimitBytesPerSec, too"]),
        ('{"perclientratelimitbytespersec": 5, "TOTALRATELIMITBYTESPERSEC": 9, "PerKey": {}}', []),
    ],
)  # fmt: skip
def test_a_member_without_effect_is_a_warning_with_its_name(tmp_path: Path, text: str, warnings: list[str]) -> None:
    path = tmp_path / "rates"
    path.write_text(text)
    assert rates.load(path).warnings == tuple(f"the rate limits {path}: {warning}" for warning in warnings)


def test_many_unknown_members_are_ten_warnings(tmp_path: Path) -> None:
    file = limits(tmp_path / "rates", **{f"Member{number}": number for number in range(1000)})
    assert len(rates.load(file).warnings) == rates.MAX_WARNINGS


def test_limits_and_unknown_members_are_logged_at_start_and_at_sighup(tmp_path: Path) -> None:
    file = limits(tmp_path / "rates", PerClientRateLimitBytesPerSec=RATE, PerClientRateLimit=5)
    flags = ("-rate-config", str(file), "-connections-per-ip", "7", "-max-queued-bytes", "2000000")
    with Server(tmp_path / "server", *flags) as server:
        server.logged(r"level=warning .*unknown member .*PerClientRateLimit\W.*did you mean PerClientRateLimitBytes")
        server.logged(rf"event=limits client_bytes_per_second={RATE}.* client_burst_bytes=65568.*"
                      r" connections_per_address=7 max_queued_bytes=2000000")  # fmt: skip
        limits(file, TotalRateLimit=5)
        mark = server.mark()
        os.kill(server.process.pid, signal.SIGHUP)
        server.logged(r"unknown member .*TotalRateLimit\W.*did you mean TotalRateLimitBytesPerSec", mark)


def test_the_file_may_set_limits_for_single_keys_and_a_total(tmp_path: Path) -> None:
    path = tmp_path / "rates"
    slow, free = (NodePrivate(bytes([number] * 32)).public() for number in (1, 2))
    per_key = {str(slow): {"RateLimitBytesPerSec": 10, "RateBurstBytes": 70_000}, str(free): {}}
    path.write_text(json.dumps({"PerClientRateLimitBytesPerSec": 5, "PerKey": per_key, "TotalRateLimitBytesPerSec": 9}))
    found = rates.load(path)
    assert found.of(slow) == (10.0, 70_000.0)
    assert found.of(free) is None
    assert found.of(NodePrivate(bytes([3] * 32)).public()) == (5.0, rates.SMALLEST_BURST)
    assert found.total == (9.0, rates.SMALLEST_BURST)


def test_a_keys_own_limit_and_the_total_limit_apply(tmp_path: Path) -> None:
    free, file = NodePrivate(bytes([1] * 32)), tmp_path / "rates"
    per_key: dict[str, dict[str, int]] = {str(free.public()): {}}
    file.write_text(json.dumps({"PerClientRateLimitBytesPerSec": 1, "PerKey": per_key}))
    with (
        Server(tmp_path / "server", "-rate-config", str(file)) as server,
        Client.join(server.door, free) as sender,
        Client.join(server.door) as receiver,
    ):
        assert relayed(sender, receiver, 40) < 10
        file.write_text(json.dumps({"TotalRateLimitBytesPerSec": RATE}))
        mark = server.mark()
        os.kill(server.process.pid, signal.SIGHUP)
        server.logged(r"reloaded .*total_bytes_per_second=200000", mark)
        assert relayed(sender, receiver, 40) >= (40 * PACKET - rates.SMALLEST_BURST) / RATE * 0.95


def test_announced_limits_are_in_server_info_and_sent_again_after_a_change(tmp_path: Path) -> None:
    slow, file, mesh_key = NodePrivate(bytes([1] * 32)), tmp_path / "rates", MeshKey(bytes(range(32)))
    per_key = {str(slow.public()): {"RateLimitBytesPerSec": 7, "RateBurstBytes": 100_000}}
    file.write_text(json.dumps({"PerClientRateLimitBytesPerSec": RATE, "PerKey": per_key}))
    flags = ("-rate-config", str(file), "-announce-limits")
    with (
        Server(tmp_path / "server", *flags, mesh_key=mesh_key) as server,
        Client.join(server.door) as client,
        Client.join(server.door, slow) as slow_client,
        Client.join(server.door, info=ClientInfo(mesh_key=mesh_key)) as mesh_peer,
    ):
        assert client.server_info == ServerInfo(2, RATE, 65_573)
        assert slow_client.server_info == ServerInfo(2, 7, 100_000)
        assert mesh_peer.server_info == ServerInfo(2)
        limits(file, PerClientRateLimitBytesPerSec=5, PerClientRateBurstBytes=80_000)
        os.kill(server.process.pid, signal.SIGHUP)
        for told in (client, slow_client):
            told.welcome()
            assert told.server_info == ServerInfo(2, 5, 80_000)
        limits(file)
        os.kill(server.process.pid, signal.SIGHUP)
        client.welcome()
        assert client.server_info == ServerInfo(2)
        assert mesh_peer.fence() == []


def test_limits_are_not_announced_by_default(tmp_path: Path) -> None:
    file = limits(tmp_path / "rates", PerClientRateLimitBytesPerSec=RATE)
    with Server(tmp_path / "server", "-rate-config", str(file)) as server, Client.join(server.door) as client:
        assert client.server_info == ServerInfo(2)


def test_a_limited_client_and_one_with_a_duplicate_key_are_notified_of_start_and_end(tmp_path: Path) -> None:
    file = limits(tmp_path / "rates", PerClientRateLimitBytesPerSec=5_000)
    with (
        Server(tmp_path / "server", "-rate-config", str(file)) as server,
        Client.join(server.door) as sender,
        Client.join(server.door) as one,
        Client.join(server.door, one.private) as twin,
    ):
        for client in (sender, one, twin):
            client.wire.sock.settimeout(3 * SECONDS)  # ten seconds pass before the first notification
        begun = time.monotonic()
        for _ in range(15):
            sender.send(NodePrivate(bytes([9] * 32)).public(), bytes(PACKET))
        stop = threading.Event()

        def fight() -> None:
            while not stop.wait(0.05):
                one.wire.send(NotePreferred(preferred=True).encode())
                twin.wire.send(NotePreferred(preferred=True).encode())

        fighting = threading.Thread(target=fight)
        fighting.start()
        try:
            told = sender.next()
            assert isinstance(told, Health)
            assert "limits this device's sending rate" in told.problem
            assert time.monotonic() - begun > 9
            told = one.next()
            assert isinstance(told, Health)
            assert "another device uses the same node key" in told.problem
            assert twin.next() == told
        finally:
            stop.set()
            fighting.join()
        limits(file)
        os.kill(server.process.pid, signal.SIGHUP)
        for client in (sender, one, twin):
            assert client.next() == Health("")


def test_connections_of_one_byte_affect_neither_new_nor_connected_clients(tmp_path: Path) -> None:
    with Server(tmp_path, tuning={"max_before_login": 20}, tls=True) as server, Bystanders(server.door) as bystanders:
        with ExitStack() as crowd:
            for _ in range(100):
                crowd.enter_context(server.raw_door.connect()).send(b"\x16")
            while server.counted()["connections_evicted"] < 60:
                bystanders.relay_on()
                with Client.join(server.door) as client:
                    assert client.fence() == []
            told = re.findall('level=info event="connection closed".*reason=evicted', server.log())
            assert len(told) == 1, "the others are counted in one line"
        bystanders.relay_on(50)


def test_an_address_cannot_exceed_its_number_of_connections(tmp_path: Path) -> None:
    with Server(tmp_path, "-connections-per-ip", "2", "-http-port", "0", tls=True) as server:
        plain = RelayAddress(int(server.logged(r'event="serving plain HTTP" address=\S+:(\d+)')[1]))
        with Client.join(server.door) as one, Client.join(server.door) as other, plain.connect() as third:
            assert third.rest() == b""
            one.send(other.key, b"both are in")
            assert other.packet().packet == b"both are in"
        with socket.create_connection((HOST, server.port), source_address=("127.0.0.9", 0)) as elsewhere:
            elsewhere.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert elsewhere.recv(100).startswith(b"HTTP/1.0 400")
