"""The client at our server, and at the reference's to check its compatibility."""

import asyncio
import os
from collections.abc import Iterator

import pytest
from relays import GoDerper, OurDerper, Relay
from waysin import MESH_KEY, SECONDS, WAYS, Way, expect, two_clients, way_to

from derper.client import (
    Connected,
    DerpClient,
    Disconnected,
    NodePrivate,
    PeerGone,
    PeerPresent,
    RecvPacket,
    ServerInfo,
)
from derper.errors import NetworkError
from derper.protocol.frames import PeerFlags, PeerGoneReason


@pytest.fixture(scope="module", params=[OurDerper, GoDerper], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[Relay]:
    chosen: type[Relay] = request.param
    return chosen


def meshed(kind: type[Relay], factory: pytest.TempPathFactory, *, tls: bool) -> Relay:
    folder = factory.mktemp(kind.name)
    (folder / "mesh.key").write_text(MESH_KEY.to_text())
    return kind(folder, tls=tls, flags=("-mesh-psk-file", str(folder / "mesh.key")))


@pytest.fixture(scope="module")
def plain_relay(kind: type[Relay], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with meshed(kind, tmp_path_factory, tls=False) as relay:
        yield relay


@pytest.fixture(scope="module")
def tls_relay(kind: type[Relay], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with meshed(kind, tmp_path_factory, tls=True) as relay:
        yield relay


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, kind: type[Relay]) -> Way:
    name: str = request.param
    relay: Relay = request.getfixturevalue("plain_relay" if name in ("plain", "ws") else "tls_relay")
    assert isinstance(relay, kind)
    return way_to(relay, name)


async def test_packets_of_every_size_arrive_unchanged(way: Way) -> None:
    packets = [os.urandom(size) for size in (0, 1, 1_312, way.biggest)]
    async with asyncio.timeout(SECONDS), two_clients(way) as (alice, bob):
        for packet in packets:
            assert await alice.send(bob.key, packet)
            assert await bob.packet() == RecvPacket(alice.key, packet)
            assert await bob.send(alice.key, packet)
            assert await alice.packet() == RecvPacket(bob.key, packet)
        assert (alice.counts.sent, alice.counts.received) == (len(packets), len(packets))


async def test_a_stream_of_packets_keeps_its_order(way: Way) -> None:
    total = 2_000
    async with asyncio.timeout(SECONDS), two_clients(way) as (alice, bob):
        in_flight = asyncio.Semaphore(16)  # a relay queues at most 32 packets

        async def send() -> None:
            for number in range(total):
                await in_flight.acquire()
                assert await alice.send(bob.key, number.to_bytes(4, "big") * 100)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            for number in range(total):
                assert (await bob.packet()).packet == number.to_bytes(4, "big") * 100
                in_flight.release()


async def test_a_ping_is_answered(way: Way) -> None:
    async with asyncio.timeout(SECONDS), way.client() as client:
        assert 0 < await client.ping() < SECONDS
        assert isinstance(await client.receive(), Connected)


async def test_the_first_message_has_the_address_of_the_relay(way: Way) -> None:
    async with asyncio.timeout(SECONDS), way.client() as client:
        first = await expect(client, Connected)
        assert first == client.connected
        assert first.server_info == ServerInfo(version=2)
        assert (first.node.host_name, first.node.port) == ("127.0.0.1", way.relay.port)
        assert first.remote == ("127.0.0.1", way.relay.port)
        assert first.local[0] == "127.0.0.1"
        versions = {"plain": None, "ws": None, "tls12": "TLSv1.2", "tls13": "TLSv1.3", "wss": "TLSv1.3"}
        assert (first.tls.version if first.tls else None) == versions[way.name]


async def test_it_uses_fast_start_if_tls_1_3_has_the_servers_key(tls_relay: Relay) -> None:
    keys = set()
    for name, fast_start, is_fast in (("tls13", True, True), ("tls13", False, False), ("tls12", True, False)):
        async with asyncio.timeout(SECONDS), way_to(tls_relay, name).client(fast_start=fast_start) as client:
            assert client.connected
            assert client.connected.fast_start is is_fast
            keys.add(client.connected.server_key)
            await client.ping()
    assert len(keys) == 1


async def test_a_receiver_is_notified_when_the_sender_leaves(way: Way) -> None:
    async with asyncio.timeout(SECONDS), way.client() as alice:
        async with way.client() as bob:
            await bob.send(alice.key, b"here I am")
            await alice.packet()
        assert await expect(alice, PeerGone) == PeerGone(bob.key, PeerGoneReason.DISCONNECTED)


async def test_a_mesh_key_lets_it_watch_forward_and_close(way: Way) -> None:
    stranger = NodePrivate.from_entropy(os.urandom(32)).public()
    async with asyncio.timeout(SECONDS), way.client(mesh_key=MESH_KEY) as peer:
        await peer.watch()
        assert (await expect(peer, PeerPresent)).peer == peer.key
        async with way.client(reconnect=False, app_name="a test", is_prober=True) as alice:
            present = await expect(peer, PeerPresent)
            assert (present.peer, present.app_name) == (alice.key, "a test")
            assert present.flags & PeerFlags.PROBER
            assert await peer.forward(stranger, alice.key, b"from afar")
            assert await alice.packet() == RecvPacket(stranger, b"from afar")
            assert await peer.close_peer(alice.key)
            with pytest.raises(NetworkError, match=r"closed|lost"):
                await alice.packet()
        assert (await expect(peer, PeerGone)).peer == alice.key


async def test_without_the_mesh_key_a_watcher_is_rejected(plain_relay: Relay) -> None:
    async with asyncio.timeout(SECONDS), way_to(plain_relay, "plain").client(reconnect=False) as client:
        await client.watch()
        with pytest.raises(NetworkError, match=r"closed|lost"):
            await client.packet()


async def test_a_client_that_iterates_stops_when_it_is_closed(plain_relay: Relay) -> None:
    seen = []
    async with asyncio.timeout(SECONDS), two_clients(way_to(plain_relay, "plain")) as (alice, bob):
        await alice.send(bob.key, b"the last")
        async for message in bob:
            seen.append(type(message))
            if isinstance(message, RecvPacket):
                await bob.close()
    assert seen == [Connected, RecvPacket]


@pytest.mark.parametrize("name", ["plain", "tls13"])
async def test_it_reconnects_when_its_relay_restarts(
    kind: type[Relay], tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    with meshed(kind, tmp_path_factory, tls=name != "plain") as relay:
        way = way_to(relay, name)
        async with (
            asyncio.timeout(3 * SECONDS),
            two_clients(way) as (alice, bob),
            way.client(mesh_key=MESH_KEY) as peer,
        ):
            await peer.watch()
            await asyncio.to_thread(relay.restart)
            for client in (alice, bob, peer):
                await expect_return(client)
            assert await alice.send(bob.key, b"again")
            assert await bob.packet() == RecvPacket(alice.key, b"again")
            seen = {(await expect(peer, PeerPresent)).peer for _ in range(3)}  # it sends WatchConns again by itself
            assert seen == {alice.key, bob.key, peer.key}


async def expect_return(client: DerpClient) -> None:
    """Wait until the client is disconnected and connected again."""
    while not isinstance(await client.receive(), Disconnected):
        pass
    while not isinstance(await client.receive(), Connected):
        pass


async def test_packets_sent_without_a_connection_are_dropped_and_counted(
    kind: type[Relay], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with meshed(kind, tmp_path_factory, tls=False) as relay:
        async with asyncio.timeout(SECONDS), way_to(relay, "plain").client() as client:
            await asyncio.to_thread(relay.stop)
            while not isinstance(await client.receive(), Disconnected):
                pass
            assert client.connected is None
            assert not await client.send(client.key, b"nobody takes it")
            assert (client.counts.sent, client.counts.unconnected) == (0, 1)
            with pytest.raises(NetworkError, match="no connection"):
                await client.ping()
