"""How many connections there may be of one address, and of those that do not relay yet."""

import asyncio
from ipaddress import ip_address

from seam import LOCAL, OTHER_LOCAL, REQUEST, Seam, seam

from derper.dataplane import Closed, Entry, Head, Switched
from derper.protocol.frames import Endpoint, PeerPresent
from derper.protocol.keys import NodePrivate


async def admitted(it: Seam, port: int, source: str = LOCAL) -> tuple[Head, asyncio.StreamWriter]:
    _, out = await it.connect(port, source=source)
    out.write(REQUEST)
    return await it.next(Head), out


async def is_turned_away(it: Seam, port: int, source: str = LOCAL) -> bool:
    """Whether a new connection is closed at once, without a word."""
    stream, _ = await it.connect(port, source=source)
    async with asyncio.timeout(10):
        return await stream.read() == b""


async def switch(it: Seam, head: Head) -> None:
    key = NodePrivate.from_entropy(bytes([7]) * 32).public()
    presence = PeerPresent(key, Endpoint(ip_address(head.remote.ip), head.remote.port))
    it.plane.switch(head.conn, presence, Entry(is_mesh_peer=False, version=2, number=1), first=b"")
    await it.next(Switched)


async def test_an_address_has_so_many_connections_on_all_listeners_together() -> None:
    async with seam() as it:
        (_, port), (_, tls_port), (_, free) = it.listen(per_ip=2), it.listen(tls=True, per_ip=2), it.listen()
        first, out = await admitted(it, port)
        second, _ = await admitted(it, port)
        assert await is_turned_away(it, port)
        assert await is_turned_away(it, tls_port)
        assert it.plane.counters()["connections_rejected_per_ip"] == 2
        await admitted(it, port, OTHER_LOCAL)
        await admitted(it, free)  # not counted there, and not held against it
        await switch(it, second)  # who relays counts on
        assert await is_turned_away(it, port)
        out.close()
        it.plane.await_head(first.conn)
        assert (await it.next(Closed)).code == "eof"
        await admitted(it, port)
        assert await is_turned_away(it, port)


async def test_newcomers_are_bounded_and_who_relays_is_no_newcomer() -> None:
    async with seam(max_introducing=2) as it:
        _, port = it.listen()
        first, _ = await admitted(it, port)
        second, out = await admitted(it, port)
        assert await is_turned_away(it, port)
        assert await is_turned_away(it, port, OTHER_LOCAL)
        assert it.plane.counters()["connections_rejected_introducing"] == 2
        await switch(it, first)
        await admitted(it, port)
        assert await is_turned_away(it, port)
        it.plane.await_head(second.conn)
        out.close()
        await it.next(Closed)
        await admitted(it, port)
        assert it.plane.counters()["connections_rejected_introducing"] == 3
