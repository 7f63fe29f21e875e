"""A mesh peer that misuses its rights: it watches and never reads, or closes keys without end."""

import os
from contextlib import ExitStack

import pytest
from beside import MEGABYTE, TLS_WIRES, Beside, Target, Wire, for_seconds
from derpwire import Client, closing

from derper.protocol.frames import ClosePeer, ForwardPacket, WatchConns
from derper.protocol.keys import NodePublic
from derper.protocol.login import ClientInfo

pytest_plugins = ["attacktable"]

WATCHERS = 50
CLIENTS = 200
UNKNOWN_KEYS = 1_000  # per write
REMOTE_SOURCES = 1_000_000  # a shard stores at most this number of sources of mesh peers
PER_SOURCE = 256  # bytes
PER_WATCHER = 256 << 10  # bytes: the socket's buffers are the kernel's; a set of keys, and what is sealed


def mesh_peer(target: Target, receive_buffer: int | None = None) -> Client:
    info = ClientInfo(mesh_key=target.mesh_key, can_ack_pings=True)
    return Client.join(target.door, info=info, receive_buffer=receive_buffer)


def random_key() -> NodePublic:
    return NodePublic(os.urandom(32))


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_watchers_that_never_read(beside: Beside, wire: Wire) -> None:
    def attack(target: Target) -> str:
        came = 0
        with ExitStack() as crowd:
            for _ in range(CLIENTS):
                crowd.enter_context(Client.join(target.door))
            for _ in range(WATCHERS):
                watcher = crowd.enter_context(mesh_peer(target, receive_buffer=4_096))
                watcher.wire.send(WatchConns().encode() * 20)  # each requests the whole list again
            for _ in for_seconds():
                Client.join(target.door).wire.reset()
                came += 1
        return f"{came} clients came and left"

    name = f"{WATCHERS} mesh watchers that never read, {CLIENTS} clients, others come and go"
    ours = beside(name, attack, wire=wire, mesh=True).ours
    ours.is_unharmed()
    assert ours.grown < 16 * MEGABYTE + (WATCHERS + CLIENTS) * PER_WATCHER


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_a_flood_of_close_peer(beside: Beside, wire: Wire) -> None:
    def attack(target: Target) -> str:
        sent = closed = 0
        with mesh_peer(target) as peer:
            frames = b"".join(ClosePeer(random_key()).encode() for _ in range(UNKNOWN_KEYS))
            for _ in for_seconds():
                peer.wire.send(frames)
                sent += UNKNOWN_KEYS
                with Client.join(target.door) as client:
                    peer.wire.send(ClosePeer(client.key).encode())
                    assert client.wire.rest() == b"", "a client that a mesh peer closed got something"
                closed += 1
        return f"{sent:,} of unknown keys; {closed} clients closed"

    beside("ClosePeer without end", attack, wire=wire, mesh=True).ours.is_unharmed()


def test_a_flood_of_close_peer_at_one_client_that_comes_back(beside: Beside) -> None:
    def attack(target: Target) -> str:
        times = 0
        with mesh_peer(target) as peer, Client.join(target.door) as first:
            peer.wire.send(ClosePeer(first.key).encode())
            for _ in for_seconds():
                client = Client.join(target.door, first.private)
                with closing(client):
                    peer.wire.send(ClosePeer(first.key).encode() * 100)
                    client.wire.rest()
                times += 1
        return f"it was closed {times} times"

    beside("100 ClosePeer at each login of one client", attack, mesh=True).ours.is_unharmed()


def test_a_flood_of_forwarded_packets(beside: Beside) -> None:
    """Each packet has a different source, which the relay stores to send PeerGone for it."""

    def attack(target: Target) -> str:
        sent = 0
        with mesh_peer(target) as peer, Client.join(target.door, receive_buffer=4_096) as stalled:
            for _ in for_seconds():
                peer.wire.send(b"".join(ForwardPacket(random_key(), stalled.key, b"").encode() for _ in range(500)))
                sent += 500
        return f"{sent:,} packets"

    ours = beside("forwarded packets from new sources to a client that never reads", attack, mesh=True).ours
    ours.is_unharmed()
    assert ours.grown < REMOTE_SOURCES * PER_SOURCE
