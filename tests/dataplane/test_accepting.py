"""Connections in the data plane before Python decides: TLS, heads and streams, over real sockets."""

import asyncio
import os
import socket
import ssl
from ipaddress import ip_address

from planes import LOCAL, NONE, OTHER_LOCAL, REQUEST, certificate, seam, shown

from derper.dataplane import Closed, CloseReason, Data, Drained, Head, HeadTooLarge, Serves, Unserved


async def test_each_client_gets_the_certificate_for_its_name_or_address() -> None:
    async with seam() as it:
        _, port = it.listen(None, tls=True)
        it.plane.set_certificates(
            [
                certificate(Serves.name("Derp1.example.test"), "by name"),
                certificate(Serves.name("derp2.example.test"), "by another name"),
                certificate(Serves.local_ip(ip_address(LOCAL)), "by address"),
                certificate(Serves.local_ip(ip_address("::1")), "by IPv6 address"),
            ]
        )
        for version in ("-tls1_2", "-tls1_3"):
            for sni in ("derp1.example.test", "DERP1.EXAMPLE.TEST"):
                assert (await shown(port, version, "-servername", sni)).certificate == "by name"
            assert (await shown(port, version, "-servername", "derp2.example.test")).certificate == "by another name"
            for words in (NONE, ("-servername", LOCAL), ("-servername", "::ffff:127.0.0.1")):
                assert (await shown(port, version, *words)).certificate == "by address"
            for words in (NONE, ("-servername", "::1")):
                assert (await shown(port, version, *words, host="[::1]")).certificate == "by IPv6 address"
            # An address other than the reached one, and an unknown name.
            for sni in (OTHER_LOCAL, "::1", "derp3.example.test", "a.derp1.example.test"):
                refused = await shown(port, version, "-servername", sni)
                assert (refused.certificate, refused.alert) == (None, 112), refused.text
            refused = await shown(port, version, *NONE, host=OTHER_LOCAL)
            assert (refused.certificate, refused.alert) == (None, 112)


async def test_a_certificate_for_any_client_is_served_for_every_name() -> None:
    async with seam() as it:
        _, port = it.listen(tls=True)
        it.plane.set_certificates([certificate(Serves.any_client(), "any")])
        for words in (NONE, ("-servername", "whoever.test"), ("-servername", OTHER_LOCAL)):
            assert (await shown(port, *words)).certificate == "any"


async def test_the_check_of_an_acme_server_gets_only_its_certificate() -> None:
    name = "derp.example.test"
    async with seam() as it:
        _, port = it.listen(tls=True)
        it.plane.set_certificates(
            [certificate(Serves.name(name), "serving"), certificate(Serves.challenge(name), "challenge")]
        )
        for version in ("-tls1_2", "-tls1_3"):
            check = await shown(port, version, "-servername", name, "-alpn", "acme-tls/1")
            assert (check.certificate, check.protocol) == ("challenge", "acme-tls/1")
            # Either end may send close_notify first.
            assert (await it.next(Closed)).code in ("acme_challenge", "eof")
        for words in ((), ("-alpn", "http/1.1"), ("-alpn", "h2,http/1.1")):
            ordinary = await shown(port, "-servername", name, *words)
            assert (ordinary.certificate, ordinary.protocol) == ("serving", "http/1.1" if words else None)
            assert (await it.next(Closed)).code in ("eof", "reset")
        # For another name; and after the challenge, for this one, too.
        other = await shown(port, "-servername", "other.example.test", "-alpn", "acme-tls/1")
        assert other.certificate is None
        await it.next(Unserved)
        await it.next(Closed)
        it.plane.set_certificates([certificate(Serves.name(name), "serving")])
        late = await shown(port, "-servername", name, "-alpn", "acme-tls/1")
        assert (late.protocol, late.alert) == (None, 120)
        assert (await it.next(Closed)).code == "tls_error"


async def test_a_name_or_address_without_a_certificate_is_reported() -> None:
    async with seam() as it:
        _, port = it.listen(None, tls=True)
        for words, name in ((NONE, None), (("-servername", "Derp7.example.test"), "derp7.example.test")):
            await shown(port, *words)
            assert await it.next(Unserved) == Unserved(name, LOCAL)
            closed = await it.next(Closed)
            assert (closed.code, closed.detail) == ("no_certificate", f"for {name or 'a client that names nobody'}")
        await shown(port, "-servername", OTHER_LOCAL)
        assert (await it.next(Closed)).code == "no_certificate"
        await shown(port, *NONE, host="[::1]")
        assert await it.next(Unserved) == Unserved(None, "::1")


async def test_new_certificates_do_not_affect_open_connections() -> None:
    async with seam() as it:
        listener, port = it.listen(tls=True)
        it.plane.set_certificates([certificate(Serves.any_client(), "old")])
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        stream, out = await asyncio.open_connection(LOCAL, port, ssl=context)
        it.plane.set_certificates([certificate(Serves.any_client(), "new")])
        assert (await shown(port, *NONE)).certificate == "new"
        await it.next(Closed)
        out.write(REQUEST)
        head = await it.next(Head)
        assert (head.head, head.listener, head.tls) == (REQUEST, listener, "1.3")
        it.plane.write(head.conn, b"still here")
        assert await stream.readexactly(10) == b"still here"
        out.close()


async def test_a_head_names_its_listener_and_both_ends() -> None:
    async with seam() as it:
        # One listener for both families; the kernel maps IPv4 addresses to IPv6.
        listeners = [it.listen(None), it.listen()]
        for listener, port in listeners:
            stream, out = await it.connect(port, source=OTHER_LOCAL)
            out.write(REQUEST)
            head = await it.next(Head)
            assert (head.listener, head.local, head.tls) == (listener, (LOCAL, port), None)
            assert head.remote[:2] == out.get_extra_info("sockname")
            out.write(b"A" * 70_000)
            it.plane.await_head(head.conn)
            too_large = await it.next(HeadTooLarge)
            assert (too_large.listener, too_large.remote[:2]) == (listener, head.remote[:2])
            it.plane.close(head.conn, CloseReason.DONE)
            assert await stream.read() == b""
            out.close()
            assert (await it.next(Closed)).code == "done"


async def test_a_stream_carries_data_both_ways_until_the_peer_ends_it() -> None:
    async with seam() as it:
        _, port = it.listen()
        stream, out = await it.connect(port)
        out.write(REQUEST + b"ahead")
        head = await it.next(Head)
        it.plane.stream(head.conn)
        assert await it.next(Data) == Data(head.conn, b"ahead")
        sent = os.urandom(1_000_000)
        out.write(sent)
        came = b""
        while len(came) < len(sent):
            data = (await it.next(Data)).data
            came += data
            it.plane.consumed(head.conn, len(data))
        assert came == sent
        it.plane.write(head.conn, sent, tell_drained=True)
        assert await stream.readexactly(len(sent)) == sent
        await it.next(Drained)
        out.write(b"last")
        out.close()
        assert (await it.next(Data)).data == b"last"
        assert (await it.next(Closed)).code == "eof"


async def test_a_peer_that_leaves_before_its_answer_is_noticed() -> None:
    async with seam() as it:
        _, port = it.listen()
        _, out = await it.connect(port)
        out.write(REQUEST)
        await it.next(Head)
        out.close()
        closed = await it.next(Closed)
        assert (closed.code, closed.detail) == ("eof", "while it was served")


async def test_a_peer_that_shuts_down_its_sending_side_gets_its_answer() -> None:
    async with seam() as it:
        _, port = it.listen()
        with socket.create_connection((LOCAL, port)) as client:
            client.setblocking(False)
            client.send(REQUEST)
            client.shutdown(socket.SHUT_WR)
            head = await it.next(Head)
            it.plane.write(head.conn, b"the answer")
            it.plane.close(head.conn, CloseReason.DONE)
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(client, 100) == b"the answer"
            assert await loop.sock_recv(client, 100) == b""
        assert (await it.next(Closed)).code == "done"
