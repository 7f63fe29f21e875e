"""Unusual requests to both servers, beyond the recorded ones: the same status, headers, body and kept connections.

After each request, a plain one follows on the same connection; its answer shows that the connection was kept.
"""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import pytest
from relays import HOST, GoDerper, OurDerper, Relay, free_port

SECONDS: Final = 10.0
NEXT: Final = b"GET /generate_204 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "FOO", "get", "M-SEARCH")
PATHS: Final = (
    "/derp", "/derp/probe", "/derp/latency-check", "/generate_204", "/robots.txt", "/bootstrap-dns", "/debug",
    "/debug/check", "/debug/nothing", "/debug/clients/?sort=x&limit=y&after=z", "/debug/clients/?format=xml", "/", "/x",
)  # fmt: skip
TARGETS: Final = (
    "/derp/", "/derp/probe/", "/derp/probex", "/generate_204/", "/robots.txt/", "//", "/./", "/..", "/a//b/../c/",
    "/a/./b", "/a/..", "/%2e%2e/x", "/derp%2Fprobe", "/%64erp", "/derp/%70robe", "/derp?x", "/derp/probe?x=1&y",
    "/debug?x=1", "/debug/nothing?y", "/debug/check/", "/DERP", "/Derp/Probe", "/generate_204?x", "/%zz", "/a%2", "/?",
    "/bootstrap-dns?q=%zz", "/bootstrap-dns?q=a&q=b", "/bootstrap-dns/x", "/debug/../robots.txt", "/debug//",
    "//debug/", "/.well-known/acme-challenge/x", "/debugger", "/debug%2fcheck", "http://a.test/robots.txt",
    "//evil.test/..", "/derp/probe/..", "/derp/.", "/%0a", "/%00", "/a b", "/derp;x", "/{x}", "/|",
)  # fmt: skip
HEADERS: Final = (
    "Connection: close", "Connection: keep-alive", "Connection: Close, x", "Host: b.test", "X-Forwarded-For: 1.2.3.4",
    "Range: bytes=0-3", "If-None-Match: *", "Accept-Encoding: gzip", "A b", ": b", "A : b", "A: b\0c", "A: \xe9",
    "Content-Length: -1", "Content-Length: +3", "Content-Length: 0x3", "Content-Length: 3\r\nContent-Length: 4",
    "Content-Length: 18446744073709551616", 'Cookie: "\\', "X-Tailscale-Challenge: a_b.c:d-E9",
    "X-Tailscale-Challenge: a/b",
    "X-Tailscale-Challenge: " + "a" * 64, "X-Tailscale-Challenge: " + "a" * 65, "X-Tailscale-Challenge:",
    "X-Tailscale-Challenge: a b", "X-Tailscale-Challenge: \xe9", "x-tailscale-challenge:  a  ",
)  # fmt: skip
HOSTS: Final = (
    "",
    "a/b",
    "a b",
    "[::1]:80",
    "a.test:80",
    "a,b",
    "a\\b",
    "a<b>",
    "A.test.",
    "user@a.test",
    "a?b",
    "a#b",
)
WHOLE: Final = (
    b"GET /robots.txt HTTP/1.0\r\n\r\n",
    b"GET /robots.txt HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /robots.txt HTTP/1.1\nHost: a\n\n",
    b"GET  /robots.txt HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /robots.txt  HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET\t/robots.txt\tHTTP/1.1\r\nHost: a\r\n\r\n",
    b" GET /robots.txt HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /robots.txt http/1.1\r\nHost: a\r\n\r\n",
    b"GET /robots.txt HTTPS/1.1\r\nHost: a\r\n\r\n",
    b"GET /robots.txt HTTP/1.2\r\nHost: a\r\n\r\n",
    b"GET /robots.txt HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET /robots.txt HTTP/0.9\r\nHost: a\r\n\r\n",
    b"GET /bootstrap-dns HTTP/1.0\r\n\r\n",
    b"GET /robots.txt HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 1_000 + b"\r\n",
    b"GET /robots.txt HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GET /robots.txt\r\nHost: a\r\n\r\n",
    b"POST /robots.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /robots.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /robots.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /robots.txt?" + b"x" * 30_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
)


def requests() -> Iterator[bytes]:
    def of(line: str, *headers: str, host: str = "a.test") -> bytes:
        return "\r\n".join([f"{line} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode("latin-1")

    yield from (of(f"{method} {path}") for method in METHODS for path in PATHS)
    yield from (of(f"GET {target}") for target in TARGETS)
    yield from (of(f"POST {target}") for target in ("//", "/a/../b"))
    yield from (of("GET /robots.txt", header) for header in HEADERS)
    yield from (of("GET /generate_204", header) for header in HEADERS if "challenge" in header.lower())
    yield from (of("GET /derp", "Upgrade: websocket2"), of("GET /debug/check", "X-Forwarded-For: 1.2.3.4"))
    yield from (of("GET /robots.txt", host=host) for host in HOSTS)
    yield from WHOLE


DIFFERENT: Final = (b"GET http://a.test/robots.txt ",)
"""Beginnings of requests that have another answer on port 80: there the reference appends one URL to the other."""
LONG: Final = 2_048
"""Length in bytes from which the reference sends a body in chunks."""

Doors = tuple[Callable[[], socket.socket], Callable[[], socket.socket]]


@pytest.fixture(scope="module", params=["plain", "port 80"])
def doors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Functions that connect to ours and to the reference."""
    tls = request.param == "port 80"
    ports = [free_port(), free_port()]
    relays = [
        kind(tmp_path_factory.mktemp(kind.name), tls=tls, flags=("-http-port", str(port)) if tls else ())
        for kind, port in zip((OurDerper, GoDerper), ports, strict=True)
    ]

    def door(relay: Relay, port: int) -> Callable[[], socket.socket]:
        return lambda: socket.create_connection((HOST, port if tls else relay.port), SECONDS)

    with relays[0], relays[1]:
        yield door(relays[0], ports[0]), door(relays[1], ports[1])


def answers(connect: Callable[[], socket.socket], request: bytes) -> str:
    """Send a request and then `NEXT` on one connection; return all bytes of the answers."""
    came = b""
    with connect() as sock, suppress(ConnectionError):
        sock.sendall(request + NEXT)
        while data := sock.recv(65_536):
            came += data
    return came.decode("latin-1")


def told(came: str) -> list[str]:
    """Return the parts that have to be equal: of each answer its status, its headers sorted by name, its body."""
    parts = re.split(r"(?=HTTP/1\.[01] [0-9]{3} )", came)[1:]
    found = []
    for part in parts:
        head, _, body = part.partition("\r\n\r\n")
        status, *headers = head.split("\r\n")
        code = int(status.split()[1])
        is_page = "text/html" in head and "Location" not in head
        says = [header for header in headers if not header.startswith("Date: ")]
        if is_page or len(body) > LONG:  # home and debug pages have different texts
            says, body = [header for header in says if not header.startswith(("Content-Length", "Transfer-"))], ""
        # For an invalid request, the text is that of Go's library.
        if code in (400, 431, 501, 505) and "Connection: close" in headers:
            says, body = [header for header in says if not header.startswith("Content-")], ""
        found.append(f"{status.partition(' ')[0]} {code} {sorted(says)} {body}")
    return found


def test_unusual_requests_get_the_same_answers_from_both(doors: Doors) -> None:
    differing = {}
    for request in requests():
        ours, theirs = (told(answers(door, request)) for door in doors)
        is_meant = request.startswith(DIFFERENT) and any("302" in answer for answer in theirs)
        if ours != theirs and not is_meant:
            differing[request[:100]] = (ours, theirs)
    assert differing == {}
