"""The data plane's reports about members, and its actions on them, by key or on all at once."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest
import pytest_asyncio
from live import SECONDS, Client, Server, config_of, serving

from derper.dataplane import CloseReason, LoginInfo, MemberSnapshot, Rate, Totals
from derper.protocol import NodePrivate
from derper.protocol.frames import Endpoint, Health, NotePreferred, PeerFlags, PeerPresent, Ping, Restarting, SendPacket
from derper.protocol.keys import MeshKey, NodePublic
from derper.protocol.upgrade import upgrade_request

MESH_KEY = MeshKey(bytes(range(32)))
TEXT = Health("the relay is about to be moved").encode()


@pytest_asyncio.fixture(params=[1, 2], ids=["one-shard", "two-shards"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    (tmp_path / "mesh.key").write_text(MESH_KEY.to_text())
    config = config_of(tmp_path, "-mesh-psk-file", str(tmp_path / "mesh.key"))
    async with serving(config, shards=request.param) as server:
        yield server


async def members(server: Server, count: int) -> dict[NodePublic, list[MemberSnapshot]]:
    """Return all members by key as soon as there are `count` of them."""
    async with asyncio.timeout(SECONDS):
        found = await server.parts.plane.members()
        while len(found) != count:  # there is no notification, so poll
            found = await server.parts.plane.members()
    by_key: dict[NodePublic, list[MemberSnapshot]] = {}
    for member in found:
        by_key.setdefault(member.peer_present().peer, []).append(member)
    return by_key


async def fence(client: Client) -> None:
    """Return when the relay has processed all frames of the client."""
    client.out.write(Ping(b"a fence.").encode())
    assert (await client.next_frame()).type == 0x13


async def ended(client: Client) -> bytes:
    """Return the remaining bytes up to the relay's close."""
    async with asyncio.timeout(SECONDS):
        return await client.stream.read()


async def test_a_snapshot_has_a_members_identity_and_traffic(server: Server) -> None:
    alice, bob = await Client.log_in(server, ideal_node="another"), await Client.log_in(server)
    alice.out.write(NotePreferred(preferred=True).encode() + SendPacket(bob.key, bytes(1_000)).encode())
    await fence(alice)
    assert (await bob.next_frame()).payload[32:] == bytes(1_000)
    told = await members(server, 2)
    ([first], [second]) = told[alice.key], told[bob.key]
    presence = first.peer_present()
    port = alice.out.get_extra_info("sockname")[1]
    assert presence.endpoint == Endpoint(ip_address("127.0.0.1"), port)
    assert presence.flags == PeerFlags.NOT_IDEAL
    assert second.peer_present().flags == PeerFlags.REGULAR
    assert (first.is_home, second.is_home) == (True, False)
    assert first.is_active
    assert not first.is_duplicate
    assert not first.is_mesh_peer
    assert (first.version, first.tls, first.is_websocket) == (2, None, False)
    assert 0 <= first.age < SECONDS
    assert first.totals == Totals(packets_in=1, bytes_in=1_000, packets_out=0, bytes_out=0)
    assert second.totals == Totals(packets_in=0, bytes_in=0, packets_out=1, bytes_out=1_000)
    assert first.conn != second.conn


async def test_every_byte_of_the_tcp_connection_is_counted(server: Server) -> None:
    client = await Client.log_in(server)
    [[before]] = (await members(server, 1)).values()
    ping = Ping(bytes(8)).encode()
    client.out.write(ping)
    pong = await client.next_frame()
    [[after]] = (await members(server, 1)).values()
    assert after.received - before.received == len(ping)
    assert after.sent - before.sent == 5 + len(pong.payload)
    # The rest is the upgrade and the login: HTTP heads, boxes with JSON.
    assert before.received > len(upgrade_request("derp.example.test")) + 80
    assert before.sent > 200


async def test_tls_bytes_are_counted_too(tmp_path: Path) -> None:
    config = config_of(tmp_path, "-certmode=manual", "-certdir", str(tmp_path), "-hostname=127.0.0.1")
    async with serving(config) as server:
        client = await Client.log_in(server)
        [[before]] = (await members(server, 1)).values()
        await fence(client)
        [[after]] = (await members(server, 1)).values()
        assert before.tls == "1.3"
        assert after.received - before.received > len(Ping(bytes(8)).encode())
        assert before.sent > 1_000  # more than a certificate's bytes


async def test_two_connections_of_a_key_are_duplicates_and_one_is_active(server: Server) -> None:
    private = NodePrivate.from_entropy(os.urandom(32))
    old, new = await Client.log_in(server, private=private), await Client.log_in(server, private=private)
    pair = (await members(server, 2))[new.key]
    assert [member.is_duplicate for member in pair] == [True, True]
    assert sorted(member.is_active for member in pair) == [False, True]
    was = next(member.conn for member in pair if member.is_active)
    await fence(old)
    pair = (await members(server, 2))[new.key]
    assert next(member.conn for member in pair if not member.is_active) == was


async def test_a_report_over_several_ticks_has_every_member_once(server: Server) -> None:
    keys = {(await Client.log_in(server)).key for _ in range(300)}
    told = await members(server, len(keys))
    assert told.keys() == keys


async def test_concurrent_reports_are_each_complete(server: Server) -> None:
    keys = {(await Client.log_in(server)).key for _ in range(3)}
    await members(server, 3)
    for report in await asyncio.gather(*(server.parts.plane.members() for _ in range(5))):
        assert {member.peer_present().peer for member in report} == keys


async def test_frames_for_a_key_reach_only_and_all_its_connections(server: Server) -> None:
    private = NodePrivate.from_entropy(os.urandom(32))
    twins = [await Client.log_in(server, private=private) for _ in range(2)]
    other = await Client.log_in(server)
    await members(server, 3)
    server.parts.plane.write_to(twins[0].key, TEXT + TEXT)
    for twin in twins:
        for _ in range(2):
            assert Health.from_payload((await twin.next_frame()).payload).problem == "the relay is about to be moved"
    await fence(other)


async def test_frames_for_all_reach_every_client_and_no_mesh_peer_unless_asked(server: Server) -> None:
    clients = [await Client.log_in(server) for _ in range(100)]
    node = await Client.log_in(server, mesh_key=MESH_KEY)
    told = await members(server, 101)
    assert [member.is_mesh_peer for member in told[node.key]] == [True]
    server.parts.plane.write_all(TEXT)
    for client in clients:
        assert (await client.next_frame()).type == Health.TYPE
    await fence(node)
    server.parts.plane.write_all(TEXT, spare_mesh_peers=False)
    assert (await node.next_frame()).type == Health.TYPE


async def test_a_closed_key_gets_its_last_frames_on_every_connection(server: Server) -> None:
    private = NodePrivate.from_entropy(os.urandom(32))
    twins = [await Client.log_in(server, private=private) for _ in range(2)]
    other = await Client.log_in(server)
    await members(server, 3)
    server.parts.plane.close_key(twins[0].key, CloseReason.REFUSED, "no longer on the list", frames=TEXT)
    for twin in twins:
        assert await ended(twin) == TEXT
    assert set(await members(server, 1)) == {other.key}
    await fence(other)


async def test_a_key_can_be_closed_while_its_connection_moves_between_shards(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = server.parts.plane.switch

    def switch_and_close(conn: int, presence: PeerPresent, entry: LoginInfo, *, first: bytes) -> None:
        switch(conn, presence, entry, first=first)
        server.parts.plane.close_key(presence.peer, CloseReason.REFUSED)

    monkeypatch.setattr(server.parts.plane, "switch", switch_and_close)
    for _ in range(20):
        await ended(await Client.log_in(server))
    await members(server, 0)


async def test_all_clients_are_notified_and_closed_and_mesh_peers_stay(server: Server) -> None:
    clients = [await Client.log_in(server) for _ in range(100)]
    node = await Client.log_in(server, mesh_key=MESH_KEY)
    await members(server, 101)
    last = Restarting(1_000, 5_000).encode()
    server.parts.plane.close_all(CloseReason.DRAINING, frames=last)
    for client in clients:
        assert await ended(client) == last
    assert set(await members(server, 1)) == {node.key}
    server.parts.plane.close_all(CloseReason.DRAINING, spare_mesh_peers=False)
    assert await ended(node) == b""


async def test_an_abandoned_report_has_no_effect(server: Server) -> None:
    await Client.log_in(server)
    await members(server, 1)
    task = asyncio.create_task(server.parts.plane.members())
    await asyncio.sleep(0)
    task.cancel()
    assert len(await server.parts.plane.members()) == 1


async def test_senders_to_a_key_are_estimated_only_if_enabled(tmp_path: Path) -> None:
    for environ, wanted in (({}, 0), ({"TS_DERP_SENDER_CARDINALITY": "1"}, 3)):
        async with serving(config_of(tmp_path, **environ), shards=2) as server:
            receiver = await Client.log_in(server)
            for _ in range(3):
                sender = await Client.log_in(server)
                sender.out.write(2 * SendPacket(receiver.key, b"it is me").encode())
                for _ in range(2):
                    await receiver.next_frame()
            told = await members(server, 4)
            assert [member.senders for member in told[receiver.key]] == [wanted]
            assert sum(member.senders for [member] in told.values()) == wanted


async def test_a_pulse_makes_every_shard_tick(server: Server) -> None:
    before = server.parts.plane.pulse()
    deadline = time.monotonic() + SECONDS
    while not all(now > then for now, then in zip(server.parts.plane.pulse(), before, strict=True)):
        assert time.monotonic() < deadline


async def test_limits_by_key_and_in_total_apply_to_open_connections(server: Server) -> None:
    slow, free, receiver = [await Client.log_in(server) for _ in range(3)]
    node = await Client.log_in(server, mesh_key=MESH_KEY)
    await members(server, 4)
    nearly_nothing = Rate(per_second=1.0, burst=65_568.0)
    server.parts.plane.limit_clients(nearly_nothing, {free.key: None})
    packets = SendPacket(receiver.key, bytes(20_000)).encode() * 6
    for sender, count in ((slow, 3), (free, 6), (node, 6)):
        sender.out.write(packets)
        for _ in range(count):
            assert (await receiver.next_frame()).payload[:32] == sender.key.raw
    server.parts.plane.limit_clients(None, total=Rate(per_second=1e6, burst=65_568.0))
    for _ in range(3):
        assert (await receiver.next_frame()).payload[:32] == slow.key.raw
