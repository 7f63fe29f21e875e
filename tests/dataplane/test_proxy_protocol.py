"""Behind a TCP proxy: its PROXY header sets the client's address; headers of other hosts are rejected."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from planes import LOCAL, OTHER_LOCAL, REQUEST, Seam, certificate, seam

from derper.dataplane import Closed, CloseReason, Head, Serves

if TYPE_CHECKING:
    from derper.dataplane import Conn

PROXIES = f"{OTHER_LOCAL}/32"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"
V1_OVER_6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n"


def v2(command: int, family: int, content: bytes) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(content)) + content


V2 = v2(1, 0x11, bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 4711, 443))
V2_WITH_MORE = v2(1, 0x11, V2[16:] + b"\x02\0\x11derp.example.test" + b"\x04\x07\xd0" + bytes(2000))
V2_OVER_6 = v2(
    1, 0x21, ip_address("2001:db8::7").packed + ip_address("2001:db8::1").packed + struct.pack("!HH", 4711, 443)
)
OVER_4 = (("192.0.2.7", 4711, False), ("198.51.100.1", 443))
OVER_6 = (("2001:db8::7", 4711, False), ("2001:db8::1", 443))
NAMING = [(V1, OVER_4), (V1_OVER_6, OVER_6), (V2, OVER_4), (V2_WITH_MORE, OVER_4), (V2_OVER_6, OVER_6)]
ANONYMOUS = [
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN ::1 ::1 1 2\r\n",
    v2(0, 0, b""),
    v2(0, 0x11, V2[16:]),
    v2(1, 0, b"x"),
]


async def answer(it: Seam, conn: Conn, stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
    """End a connection cleanly, so that the next events belong to another."""
    it.plane.close(conn, CloseReason.DONE)
    await stream.read()
    out.close()
    await it.next(Closed)


async def test_both_addresses_are_those_in_the_proxy_header() -> None:
    async with seam() as it:
        listener, port = it.listen(proxies=PROXIES)
        for header, (remote, local) in NAMING:
            stream, out = await it.connect(port, source=OTHER_LOCAL)
            out.write(header + REQUEST)
            head = await it.next(Head)
            assert (head.head, head.remote, head.local, head.listener) == (REQUEST, remote, local, listener)
            it.plane.close(head.conn, CloseReason.DONE)
            await stream.read()
            out.close()
            assert (await it.next(Closed)).remote[:2] == remote[:2]


async def test_a_header_may_come_in_pieces_and_with_its_request_byte_by_byte() -> None:
    async with seam() as it:
        _, port = it.listen(proxies=PROXIES)
        for header in (V1, V2):
            stream, out = await it.connect(port, source=OTHER_LOCAL)
            for byte in header + REQUEST:
                out.write(bytes([byte]))
                await asyncio.sleep(0)
            head = await it.next(Head)
            assert (head.head, head.remote) == (REQUEST, OVER_4[0])
            await answer(it, head.conn, stream, out)


async def test_tls_begins_after_the_header_and_the_reached_address_selects_the_certificate() -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with seam() as it:
        _, port = it.listen(tls=True, proxies=PROXIES)
        it.plane.set_certificates([certificate(Serves.local_ip(ip_address("198.51.100.1")), "theirs")])
        for header in (V1, V2):
            with socket.create_connection((LOCAL, port), source_address=(OTHER_LOCAL, 0)) as sock:
                sock.sendall(header)
                sock.setblocking(False)
                stream, out = await asyncio.open_connection(sock=sock, ssl=context, server_hostname="")
                out.write(REQUEST)
                head = await it.next(Head)
                assert (head.remote, head.local, head.tls) == (*OVER_4, "1.3")
                it.plane.close(head.conn, CloseReason.DONE)
                await stream.read()
                out.close()
                await it.next(Closed)


async def test_a_local_or_unknown_proxy_header_makes_the_client_anonymous() -> None:
    async with seam() as it:
        _, port = it.listen(proxies=PROXIES)
        for header in ANONYMOUS:
            stream, out = await it.connect(port, source=OTHER_LOCAL)
            out.write(header + REQUEST)
            head = await it.next(Head)
            assert (head.remote, head.local) == ((*out.get_extra_info("sockname"), True), (LOCAL, port))
            await answer(it, head.conn, stream, out)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_a_proxys_connection_without_a_header_is_rejected(*, tls: bool) -> None:
    async with seam() as it:
        _, port = it.listen(tls=tls, proxies=PROXIES)
        long = b"PROXY TCP4 " + b"1" * 200
        too_long = SIGNATURE + b"\x21\x11\xff\xff"
        for bad in (REQUEST, b"\x16\x03\x01\x02\x00", b"PROXY TCP4 192.0.2.7\r\n", b"PROXY \r\n", long, too_long):
            stream, out = await it.connect(port, source=OTHER_LOCAL)
            out.write(bad)
            closed = await it.next(Closed)
            assert closed.code == "proxy_header", bad
            assert closed.detail
            out.close()
        # A second header is an error.
        stream, out = await it.connect(port, source=OTHER_LOCAL)
        out.write(V1 + V1)
        closed = await it.next(Closed)
        assert (closed.code, closed.remote.ip) == ("proxy_header", "192.0.2.7")
        assert await stream.read() == b""
        out.close()


async def test_a_missing_header_closes_the_connection_at_the_deadline() -> None:
    async with seam(setup_timeout=0.1) as it:
        _, port = it.listen(tls=True, proxies=PROXIES)
        for begun in (b"", V1[:-1], V2[:20]):
            stream, out = await it.connect(port, source=OTHER_LOCAL)
            out.write(begun)
            assert await stream.read() == b""
            assert (await it.next(Closed)).code == "proxy_header"
            out.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_a_header_from_another_host_is_rejected_with_a_clean_close(*, tls: bool) -> None:
    async with seam() as it:
        listeners = [it.listen(tls=tls), it.listen(tls=tls, proxies=PROXIES)]
        for header in (V1, V2, ANONYMOUS[0]):
            for _, port in listeners:
                stream, out = await it.connect(port, source=LOCAL)
                out.write(header + REQUEST)
                assert await stream.read() == b""
                out.close()
                closed = await it.next(Closed)
                assert (closed.code, closed.remote.ip) == ("proxy_header", LOCAL)


async def test_direct_connections_need_no_header() -> None:
    async with seam() as it:
        _, port = it.listen(proxies=PROXIES)
        stream, out = await it.connect(port, source=LOCAL)
        out.write(REQUEST)
        head = await it.next(Head)
        assert head.remote == (*out.get_extra_info("sockname"), False)
        await answer(it, head.conn, stream, out)


async def test_connections_are_counted_by_the_address_in_the_header() -> None:
    async with seam() as it:
        _, port = it.listen(proxies=PROXIES, per_ip=1)
        stream, out = await it.connect(port, source=OTHER_LOCAL)
        out.write(V1 + REQUEST)
        head = await it.next(Head)
        second, second_out = await it.connect(port, source=OTHER_LOCAL)
        second_out.write(V2 + REQUEST)
        assert await second.read() == b""
        second_out.close()
        assert it.plane.counters()["connections_rejected_per_ip"] == 1
        others = []
        for header in (V1_OVER_6, ANONYMOUS[0], ANONYMOUS[0]):
            others.append(await it.connect(port, source=OTHER_LOCAL))
            others[-1][1].write(header + REQUEST)
            await it.next(Head)
        await answer(it, head.conn, stream, out)
        for _, other in others:
            other.close()
