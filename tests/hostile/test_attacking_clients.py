"""Clients that act together: all send to all, leave at once, never read, or write the smallest records."""

import os
from contextlib import ExitStack

import pytest
from beside import MEGABYTE, TLS_WIRES, Beside, Target, Wire, for_seconds
from derpwire import Client, closing, new_key

from derper.protocol.frames import Ping, SendPacket
from derper.protocol.keys import NodePublic

pytest_plugins = ["attacktable"]

MANY = 150  # clients; each costs the test a few milliseconds of TLS
SAME_KEY = 200  # connections
STALLED = 60
PACKETS = 32  # for each client that never reads: a queue's depth
LARGE = 60_000  # bytes
LIMIT = 16 * MEGABYTE
DESTINATIONS = 500  # per write
REMEMBERED = 160  # bytes per destination
MOST_DESTINATIONS = 65_536  # per sender


def join_many(target: Target, count: int, exits: ExitStack, receive_buffer: int | None = None) -> list[Client]:
    return [exits.enter_context(Client.join(target.door, receive_buffer=receive_buffer)) for _ in range(count)]


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_each_sends_to_each_and_all_leave_at_once(beside: Beside, wire: Wire) -> None:
    def attack(target: Target) -> str:
        with ExitStack() as exits:
            clients = join_many(target, MANY, exits, receive_buffer=4_096)
            to_all = b"".join(SendPacket(client.key, b"hello").encode() for client in clients)
            for client in clients:
                client.wire.send(to_all)
            for client in clients:
                client.wire.reset()
        return f"{MANY * MANY:,} packets"

    beside(
        f"{MANY} clients that each send to each, never read, and leave at once", attack, wire=wire
    ).ours.is_unharmed()


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_connections_of_one_key_leave_at_once(beside: Beside, wire: Wire) -> None:
    def attack(target: Target) -> str:
        key = new_key()
        with closing(*(clients := [Client.join(target.door, key) for _ in range(SAME_KEY)])):
            for client in clients:
                client.wire.reset()
        return f"{SAME_KEY} logins"

    beside(f"{SAME_KEY} connections of one key that leave at once", attack, wire=wire).ours.is_unharmed()


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_large_packets_for_clients_that_never_read(beside: Beside, wire: Wire) -> None:
    def attack(target: Target) -> str:
        with ExitStack() as exits:
            stalled = join_many(target, STALLED, exits, receive_buffer=4_096)
            sender = exits.enter_context(Client.join(target.door))
            for _ in range(PACKETS):
                for client in stalled:
                    sender.send(client.key, bytes(LARGE))
            sender.ping()
        return f"{STALLED * PACKETS * LARGE // MEGABYTE} MB sent"

    name = f"{STALLED} clients that never read {PACKETS} packets of {LARGE // 1_000} kB; limit {LIMIT // MEGABYTE} MB"
    flags = ("-max-queued-bytes", str(LIMIT))
    ours = beside(name, attack, wire=wire, our_flags=flags).ours
    ours.is_unharmed()
    assert ours.grown < 1.5 * LIMIT + 16 * MEGABYTE


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_packets_to_new_destinations(beside: Beside, wire: Wire) -> None:
    def attack(target: Target) -> str:
        sent = 0
        with Client.join(target.door) as client:
            for _ in for_seconds():
                packets = (SendPacket(NodePublic(os.urandom(32)), b"hello").encode() for _ in range(DESTINATIONS))
                client.wire.send(b"".join(packets))
                sent += DESTINATIONS
        return f"{sent:,} packets"

    ours = beside("packets to destinations that nobody has, without end", attack, wire=wire).ours
    ours.is_unharmed()
    assert ours.grown < 16 * MEGABYTE + MOST_DESTINATIONS * REMEMBERED


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_records_of_one_byte(beside: Beside, wire: Wire) -> None:
    def attack(target: Target) -> str:
        sent = 0
        with Client.join(target.door) as client:
            frame = Ping(b"12345678").encode()
            for _ in for_seconds():
                for at in range(len(frame)):
                    client.wire.send(frame[at : at + 1])
                sent += len(frame)
            assert client.frame(), "its pings are answered"
        return f"{sent:,} records"

    beside("pings in TLS records of one byte, answers never read", attack, wire=wire).ours.is_unharmed()


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_requests_broken_off(beside: Beside, wire: Wire) -> None:
    """Strangers cannot fill the log with aborted requests."""
    requests = (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\nhalf",
        b"GET /generate_204 HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
    )

    def attack(target: Target) -> str:
        count = 0
        for _ in for_seconds():
            for request in requests:
                connection = target.door.connect()
                connection.send(request)
                connection.reset()
                count += 1
        return f"{count} requests"

    beside("GET and POST, reset at once", attack, wire=wire).ours.is_unharmed(log_bytes=64 << 10)
