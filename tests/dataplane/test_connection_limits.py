"""Limits on the connections of one address, and on connections before login."""

import asyncio
import sys
import time
from ipaddress import ip_address

import pytest
from planes import LOCAL, OTHER_LOCAL, REQUEST, Seam, seam

from derper.dataplane import Closed, Head, LoginInfo, Switched
from derper.dataplane.plane import max_pending
from derper.protocol.frames import Endpoint, PeerPresent
from derper.protocol.keys import NodePrivate


async def admitted(it: Seam, port: int, source: str = LOCAL) -> tuple[Head, asyncio.StreamWriter]:
    _, out = await it.connect(port, source=source)
    out.write(REQUEST)
    return await it.next(Head), out


async def is_rejected(it: Seam, port: int, source: str = LOCAL) -> bool:
    """Return whether a new connection is closed at once, without any data."""
    stream, _ = await it.connect(port, source=source)
    async with asyncio.timeout(10):
        return await stream.read() == b""


async def switch(it: Seam, head: Head) -> None:
    key = NodePrivate.from_entropy(bytes([7]) * 32).public()
    presence = PeerPresent(key, Endpoint(ip_address(head.remote.ip), head.remote.port))
    it.plane.switch(head.conn, presence, LoginInfo(is_mesh_peer=False, version=2, number=1), first=b"")
    await it.next(Switched)


async def test_the_limit_of_an_address_covers_all_listeners_together() -> None:
    async with seam() as it:
        (_, port), (_, tls_port), (_, free) = it.listen(per_ip=2), it.listen(tls=True, per_ip=2), it.listen()
        first, out = await admitted(it, port)
        second, _ = await admitted(it, port)
        assert await is_rejected(it, port)
        assert await is_rejected(it, tls_port)
        assert it.plane.counters()["connections_rejected_per_ip"] == 2
        await admitted(it, port, OTHER_LOCAL)
        await admitted(it, free)  # this listener neither counts nor limits connections
        await switch(it, second)  # a connection that relays still counts
        assert await is_rejected(it, port)
        out.close()
        it.plane.await_head(first.conn)
        assert (await it.next(Closed)).code == "eof"
        await admitted(it, port)
        assert await is_rejected(it, port)


async def test_beyond_the_limit_a_connection_waits_until_a_silent_one_makes_room() -> None:
    async with seam(max_before_login=2) as it:
        _, port = it.listen()
        began = time.monotonic()
        streams = [(await it.connect(port))[0] for _ in range(2)]
        _, out = await it.connect(port, source=OTHER_LOCAL)
        out.write(REQUEST)
        async with asyncio.timeout(20):
            events = [await it.events.get() for _ in range(2)]  # from two shards, so in any order
        assert time.monotonic() - began > 1.9, "the first two are safe for 2 s"
        (head,) = (event for event in events if isinstance(event, Head))
        (closed,) = (event for event in events if isinstance(event, Closed))
        assert closed.code == "evicted"
        async with asyncio.timeout(10):
            await asyncio.wait([asyncio.ensure_future(one.read()) for one in streams], return_when="FIRST_COMPLETED")
        counters = it.plane.counters()
        assert (counters["connections_evicted"], it.plane.pending_connections()) == (1, 2)
        await switch(it, head)
        assert it.plane.pending_connections() == 1
        await admitted(it, port)
        assert it.plane.counters()["connections_evicted"] == 1, "a login leaves its place to the next"


async def test_a_stream_is_not_among_the_connections_before_login() -> None:
    async with seam() as it:
        _, port = it.listen()
        head, _ = await admitted(it, port)
        assert it.plane.pending_connections() == 1
        it.plane.stream(head.conn)
        await admitted(it, port)
        assert it.plane.pending_connections() == 1


async def test_reserved_places_are_counted_separately_for_their_address() -> None:
    async with seam() as it:
        _, port = it.listen()
        it.plane.reserve_places([ip_address(LOCAL)])
        for _ in range(16):
            await admitted(it, port)
        assert it.plane.pending_connections() == 0
        await admitted(it, port)
        await admitted(it, port, OTHER_LOCAL)
        assert it.plane.pending_connections() == 2


@pytest.mark.parametrize("is_trusted", [False, True])
async def test_connections_of_a_trusted_proxy_count_for_no_network(*, is_trusted: bool) -> None:
    """Nine connections of one address exceed its share; nine clients of a proxy do not."""
    async with seam(max_before_login=12) as it:
        _, port = it.listen(trusted=OTHER_LOCAL if is_trusted else "")
        sources = [LOCAL] * 3 + [OTHER_LOCAL] * 9
        streams = []
        for count, source in enumerate(sources, 1):
            streams.append((await it.connect(port, source=source))[0])
            while it.plane.pending_connections() < count:  # noqa: ASYNC110  accepting is no event
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)  # so that no two are silent for the same time
        await it.connect(port, source=OTHER_LOCAL)
        async with asyncio.timeout(20):
            assert (await it.next(Closed)).code == "evicted"
            tasks = [asyncio.ensure_future(stream.read()) for stream in streams]
            await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
        assert [task.done() for task in tasks].index(True) == (0 if is_trusted else 3)
        for task in tasks:
            task.cancel()


@pytest.mark.parametrize(
    ("descriptors", "memory", "most"),
    [
        (1_024, 1 << 30, 512),
        (20_000, 1 << 30, 10_000),
        (1_000_000, 1 << 30, 16_384),
        (1_000_000, 4 << 30, 65_536),
        (1_000_000, 64 << 30, 500_000),
        (sys.maxsize, 64 << 30, 1 << 20),
    ],
)
def test_the_limit_before_login_follows_the_descriptors_and_the_memory(
    descriptors: int, memory: int, most: int
) -> None:
    assert max_pending(descriptors, memory) == most
