"""Request smuggling: a request inside an ambiguous request's body is never answered as a request of its own.

The smuggled request is for a page with a distinctive body. The outer request may be rejected, or parsed in the one
right way; its connection may be closed. Any other result is exploitable if a proxy parses the outer one differently.
"""

from collections.abc import Iterator

import pytest
from derpwire import Client
from httpwire import read_answer, request
from serving import Recorded, Server

pytest_plugins = ["hall"]

HIDDEN = b"GET /debug/vars HTTP/1.1\r\nHost: a\r\n\r\n"
SHOWN = b'"cmdline"'
TAIL = b"GET /robots.txt HTTP/1.1\r\nHost: a\r\n\r\n"
UPGRADE = b"GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n"
GREETING = b"DERP\xf0\x9f\x94\x91"


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest, recorded: Recorded) -> Iterator[Server]:
    server = recorded("plain", tls=request.param)
    since = server.mark()
    yield server
    assert "Traceback" not in server.log(since)


def post(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((b"POST /robots.txt HTTP/1.1", b"Host: a", *lines, b"", b"")) + body


LENGTH = b"Content-Length: %d"
HIDING = {
    "a length and chunks": post(LENGTH % len(HIDDEN), b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks and a length": post(b"Transfer-Encoding: chunked", LENGTH % 5, body=b"0\r\n\r\n"),
    "chunks by another name": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunks and identity": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "chunks twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks with a space before the colon": post(b"Transfer-Encoding : chunked", LENGTH % 5, body=b"0\r\n\r\n"),
    "chunks in a folded line": post(b"X: y", b" Transfer-Encoding: chunked", LENGTH % 3, body=b"abc"),
    "chunks with a tab": post(b"Transfer-Encoding:\tchunked", LENGTH % 5, body=b"0\r\n\r\n"),
    "chunks behind a form feed": post(b"Transfer-Encoding: \x0cchunked", LENGTH % 5, body=b"0\r\n\r\n"),
    "a chunk of a huge size": post(b"Transfer-Encoding: chunked", body=b"fffffffffffffffff0\r\n\r\n"),
    "a chunk with an extension": post(b"Transfer-Encoding: chunked", body=b"0;a=\n\r\n\r\n"),
    "two lengths": post(LENGTH % 0, LENGTH % len(HIDDEN)),
    "two lengths in one line": post(b"Content-Length: 0, %d" % len(HIDDEN)),
    "a length with a sign": post(b"Content-Length: +0"),
    "a negative length": post(b"Content-Length: -%d" % len(HIDDEN)),
    "a length in hex": post(b"Content-Length: 0x0"),
    "a length with an underscore": post(b"Content-Length: 1_0"),
    "a length in other digits": post("Content-Length: \u0663".encode()),
    "a length that wraps around": post(b"Content-Length: 18446744073709551616"),
    "a bare line feed in a header": post(b"X: y\nContent-Length: 0"),
    "a bare carriage return in a header": post(b"X: y\rContent-Length: %d" % len(HIDDEN)),
    "a NUL in a header": post(b"X: y\0"),
    "a blank line of a line feed alone": b"POST /robots.txt HTTP/1.1\r\nHost: a\r\nX: y\n\n",
    "a GET with a length": b"GET /robots.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "a HEAD with chunks": b"HEAD /robots.txt HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a version of its own": b"POST /robots.txt HTTP/1.1x\r\nHost: a\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /robots.txt HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("shape", HIDING, ids=str)
def test_bytes_covered_by_a_length_are_never_a_request(server: Server, shape: str) -> None:
    """The body is the smuggled request, as in one of the two ways to parse it."""
    body = post(LENGTH % len(HIDDEN), body=HIDDEN)
    with server.door.connect() as wire:
        wire.offer(body + HIDING[shape])
        wire.finish()
        came = wire.rest()
    assert SHOWN not in came
    assert came.startswith(b"HTTP/1.1 200 OK\r\n")


AGREED = {
    "a bare line feed in a header": "a line may end so (RFC 9112, 2.2), and then it says that there is no body",
    "a blank line of a line feed alone": "so may the head, and then what follows is a request for every reader",
    "a GET with a length": "of 0",
    "chunks in a folded line": "a folded line is part of the one before (RFC 9112, 5.2), so the length holds",
}


@pytest.mark.parametrize("shape", HIDING, ids=str)
def test_a_request_after_an_ambiguous_one_is_not_answered(server: Server, shape: str) -> None:
    with server.door.connect() as wire:
        wire.offer(HIDING[shape] + HIDDEN)
        wire.finish()
        came = wire.rest()
    assert came.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 200 ", b"HTTP/1.0 200 "))
    assert (SHOWN in came) == (shape in AGREED)


@pytest.mark.parametrize("shape", HIDING, ids=str)
def test_an_upgrade_in_a_body_is_ignored(server: Server, shape: str) -> None:
    body = post(LENGTH % len(UPGRADE), body=UPGRADE)
    with server.door.connect() as wire:
        wire.offer(body + HIDING[shape])
        wire.finish()
        assert GREETING not in wire.rest()


def test_a_truncated_body_is_not_a_request(server: Server) -> None:
    with server.door.connect() as wire:
        wire.send(post(LENGTH % (len(HIDDEN) + 1), body=HIDDEN))
        wire.finish()
        assert SHOWN not in wire.rest()


def test_a_thousand_heads_at_once_are_answered_one_by_one(server: Server) -> None:
    with server.door.connect() as wire, Client.join(server.door) as other:
        wire.send(TAIL * 1_000)
        for _ in range(1_000):
            assert read_answer(wire).body == b"User-agent: *\nDisallow: /\n"
        other.ping()


def test_endless_heads_from_a_client_that_reads_no_answer_use_bounded_memory(server: Server) -> None:
    memory = server.memory()
    with server.door.connect(receive_buffer=4_096) as wire:
        wire.sock.settimeout(0.5)
        sent = 0
        try:
            while sent < 64 << 20:
                wire.sock.sendall(TAIL * 500)
                sent += len(TAIL) * 500
        except (TimeoutError, OSError):
            pass
        assert sent < 64 << 20
        with server.door.connect() as other:
            other.send(request("GET", "/generate_204"))
            assert read_answer(other).status == 204
    assert server.memory() - memory < 16 << 20


@pytest.mark.parametrize("path", ["/", "/bootstrap-dns", "/debug/check", "/debug", "/derp", "/generate_204"])
@pytest.mark.parametrize(
    "query", ["&" * 60_000, "a=b&" * 15_000, "q=" + "%00" * 20_000, "=" * 60_000, "debugkey=" + "a" * 60_000]
)
def test_an_absurd_query_does_not_affect_other_clients(server: Server, path: str, query: str) -> None:
    with server.door.connect() as wire:
        wire.send(request("GET", f"{path}?{query}", "Connection: close"))
        assert wire.rest().startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 204 ", b"HTTP/1.1 307 ", b"HTTP/1.1 426 "))
