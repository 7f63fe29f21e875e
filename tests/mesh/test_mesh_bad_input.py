"""Nodes and watchers that misbehave: their cost is bounded and counted, and other clients are not affected."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from authority import Authority
from bystanders import Bystanders
from derpwire import HOST, SECONDS, Client, Wire
from fakenode import FakeNode
from region import MESH_KEY, OurNode
from relays import free_port

from derper.protocol.disco import DISCO_MAGIC
from derper.protocol.frames import ForwardPacket, PeerGone, PeerGoneReason, PeerPresent, WatchConns
from derper.protocol.keys import NodePublic
from derper.protocol.login import ClientInfo

DISCO = DISCO_MAGIC + bytes(80)
MAX_KEYS = 1_000
PLACES = 20  # for connections before login
WATCHER_SECONDS = 1.0
MANY = 1_000_000  # as many as one link may announce
MEMORY = 128 * 1024 * 1024
KEY_BYTES = 450  # of memory for each key


def keys(number: int) -> list[NodePublic]:
    return [NodePublic(bytes(28) + at.to_bytes(4, "big")) for at in range(1, number + 1)]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeNode]:
    with FakeNode(tmp_path, Authority(tmp_path)) as node:
        yield node


def ours_beside(fake: FakeNode, tmp_path: Path, **plane: float) -> OurNode:
    """Return a node that dials the fake one."""
    return OurNode(
        tmp_path / "ours", free_port(), fake.authority, f"{HOST}:{fake.port}", "-shards", "2", tuning={"plane": plane}
    )


def test_the_number_of_keys_that_a_link_may_announce_is_limited(fake: FakeNode, tmp_path: Path) -> None:
    with (
        ours_beside(fake, tmp_path, mesh_max_keys=MAX_KEYS) as ours,
        fake.link() as link,
        Client.join(ours.door) as client,
    ):
        first, second, *_, last, refused, refused_too = keys(MAX_KEYS + 1)  # the node's own key is one of them
        for _ in range(3):
            link.announce(*keys(MAX_KEYS + 1))
        while (counted := ours.counted())["mesh_keys_refused"] < 6:
            pass
        assert (counted["mesh_keys_refused"], counted["keys_total"]) == (6, MAX_KEYS + 1)
        client.send(refused, DISCO)
        assert client.next() == PeerGone(refused, PeerGoneReason.NOT_HERE)
        client.send(last, b"for the last that was taken")
        assert link.forwarded() == ForwardPacket(client.key, last, b"for the last that was taken")

        link.wire.send(PeerGone(first).encode())
        link.announce(refused_too)
        link.wire.send(PeerGone(last).encode() + PeerGone(second).encode())
        ours.knows(MAX_KEYS - 1)
        client.send(refused_too, b"there is room again")
        assert link.forwarded() == ForwardPacket(client.key, refused_too, b"there is room again")


def test_a_million_keys_of_one_link_use_bounded_memory_and_are_removed_with_it(fake: FakeNode, tmp_path: Path) -> None:
    with ours_beside(fake, tmp_path) as ours, Bystanders(ours.door) as bystanders:
        before = ours.memory()
        with fake.link() as link:
            # Each is a PeerPresent with only a key; the fake node has announced itself.
            link.wire.send(b"".join(b"\x09\0\0\0\x20" + bytes(28) + at.to_bytes(4, "big") for at in range(1, MANY)))
            ours.knows(MANY + 2)
            assert ours.memory() - before < MANY * KEY_BYTES
            bystanders.relay_on()
        ours.logged("mesh link down; retrying")
        assert ours.knows(2)["keys_local"] == 2
        assert ours.memory() - before < MANY * KEY_BYTES / 2


def test_an_endless_series_of_keys_does_not_accumulate(fake: FakeNode, tmp_path: Path) -> None:
    with (
        ours_beside(fake, tmp_path) as ours,
        fake.link() as link,
        Bystanders(ours.door),
        Client.join(ours.door) as client,
    ):
        churn = b"".join(PeerPresent(key).encode() + PeerGone(key).encode() for key in keys(1_000))
        strangers = b"".join(PeerGone(key).encode() for key in keys(2_000)[1_000:])
        for _ in range(50):
            link.wire.send(churn + strangers)
        link.announce(*keys(2))
        link.wire.send(PeerGone(client.key).encode())  # of a known key, so it is counted: the end of the series
        strange = "packet_forwarder_delete_other_value"
        # During the series there may be as many keys as at its end.
        deadline = time.monotonic() + SECONDS
        while (counted := ours.knows(6))[strange] == 0 and time.monotonic() < deadline:
            pass
        assert counted[strange] == 1


def test_a_key_that_a_node_reports_as_absent_is_removed(fake: FakeNode, tmp_path: Path) -> None:
    with ours_beside(fake, tmp_path) as ours, fake.link() as link, Client.join(ours.door) as client:
        (remote,) = keys(1)
        link.announce(remote)
        ours.knows(3)
        client.send(remote, DISCO)
        assert link.forwarded().packet == DISCO
        link.wire.send(PeerGone(remote, PeerGoneReason.NOT_HERE).encode())
        ours.knows(2)
        client.send(remote, DISCO)
        assert client.next() == PeerGone(remote, PeerGoneReason.NOT_HERE)


def test_packets_that_would_loop_between_two_nodes_are_dropped(fake: FakeNode, tmp_path: Path) -> None:
    with (
        ours_beside(fake, tmp_path) as ours,
        Bystanders(ours.door) as bystanders,
        fake.link() as link,
        Client.join(ours.door, info=ClientInfo(mesh_key=MESH_KEY)) as incoming,
        Client.join(ours.door) as client,
    ):
        (remote,) = keys(1)
        link.announce(remote)
        ours.knows(6)
        # The other node announces the key, and forwards us packets to it.
        loop = ForwardPacket(client.key, remote, bytes(1_000)).encode()
        for _ in range(100):
            incoming.wire.send(loop * 100)
        bystanders.relay_on()
        incoming.ping()
        counted = ours.counted()
        assert counted["packets_forwarded_in"] == counted["drops"]["unknown_dest_on_fwd other"] == 10_000
        client.send(remote, b"the first that goes there")
        assert link.forwarded() == ForwardPacket(client.key, remote, b"the first that goes there")


def test_an_invalid_frame_ends_the_link_and_the_node_is_dialled_again(fake: FakeNode, tmp_path: Path) -> None:
    with ours_beside(fake, tmp_path) as ours, Bystanders(ours.door):
        with fake.link() as link:
            link.wire.offer(b"\x09\xff\xff\xff\xff" + bytes(100))
            assert link.wire.rest() == b""
        ours.logged("mesh link down; retrying.*protocol_error")
        fake.link().wire.close()


def test_a_silent_node_is_dialled_again(fake: FakeNode, tmp_path: Path) -> None:
    with ours_beside(fake, tmp_path, link_silence=0.2) as ours:
        with fake.link() as link:
            assert link.wire.rest() == b""
        ours.logged("mesh link down; retrying.*silent")
        fake.link().wire.close()


def test_a_flood_of_silent_connections_does_not_lock_out_another_node(fake: FakeNode, tmp_path: Path) -> None:
    """Each connection of the flood has its own address, so the limit per address alone would not protect the node."""
    with ours_beside(fake, tmp_path, max_before_login=PLACES) as ours, fake.link(), ExitStack() as stack:
        slow = stack.enter_context(ours.raw_door.tcp())
        for n in range(5 * PLACES):
            flood = socket.create_connection((HOST, ours.port), SECONDS, (f"127.0.2.{1 + n}", 0))
            stack.enter_context(flood).send(b"\x16")
        while ours.counted()["connections_evicted"] < 2 * PLACES:
            time.sleep(0.05)
        assert ours.door.tls is not None
        node = Client(Wire(ours.door.tls.wrap_socket(slow, server_hostname=HOST)))
        node.upgrade()
        node.log_in(ClientInfo(mesh_key=MESH_KEY))
        node.wire.send(WatchConns().encode())
        assert isinstance(node.next(), PeerPresent)
        node.wire.close()


def test_a_watcher_that_reads_nothing_is_closed_and_uses_little_memory(tmp_path: Path) -> None:
    tuning = {"plane": {"mesh_write_timeout": WATCHER_SECONDS}}
    with (
        OurNode(tmp_path, free_port(), Authority(tmp_path), "", "-shards", "2", tuning=tuning) as ours,
        Bystanders(ours.door) as bystanders,
    ):
        before = ours.memory()
        info = ClientInfo(mesh_key=MESH_KEY)
        with Client.join(ours.door, info=info, receive_buffer=4_096) as blocked, Client.join(ours.door) as loud:
            blocked.wire.send(WatchConns().encode())
            while ours.counted()["watchers"] == 0:
                pass
            since = ours.mark()
            packet = bytes(60_000)
            while not ours.log(since).count(f"key={blocked.key}"):
                loud.send(blocked.key, packet)
                Client.join(ours.door).wire.close()
            gone = ours.logged(f"client gone.*key={blocked.key}.*", since)[0]
            assert "write_timeout" in gone
            assert ours.memory() - before < MEMORY // 4
            counted = ours.counted()
            assert (counted["watchers"], counted["sclient_write_timeouts"]) == (0, 1)
        bystanders.relay_on()
