"""Use of an HTTP connection: consecutive requests, an upgrade among them, and rejected heads."""

import pytest
from derpwire import HOST, Client, Wire
from httpwire import read_answer, request
from serving import Recorded, Server

from derper.protocol.upgrade import upgrade_request

pytest_plugins = ["hall"]

ROBOTS = b"User-agent: *\nDisallow: /\n"


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest, recorded: Recorded) -> Server:
    return recorded("plain", tls=request.param)


def logs_in(wire: Wire, *, fast_start: bool = False) -> None:
    with Client(wire) as client:
        client.upgrade(fast_start=fast_start)
        client.log_in()
        assert client.fence() == []


def test_a_kept_connection_serves_one_request_after_the_other(server: Server) -> None:
    with server.door.connect() as wire:
        for _ in range(3):
            wire.send(request("GET", "/robots.txt"))
            assert read_answer(wire).body == ROBOTS
            wire.send(request("HEAD", "/derp/probe"))
            assert read_answer(wire, "HEAD").status == 200


def test_an_http_1_0_connection_is_kept_when_the_client_asks(server: Server) -> None:
    with server.door.connect() as wire:
        for _ in range(2):
            wire.send(request("GET", "/robots.txt", "Connection: keep-alive", version="1.0"))
            answer = read_answer(wire)
            assert (answer.body, answer.get("Connection")) == (ROBOTS, "keep-alive")


@pytest.mark.parametrize("fast_start", [False, True])
def test_the_second_request_of_a_connection_may_be_the_upgrade(server: Server, fast_start: bool) -> None:  # noqa: FBT001
    with server.door.connect() as wire:
        wire.send(request("GET", "/derp/probe"))
        assert read_answer(wire).status == 200
        logs_in(wire, fast_start=fast_start)


@pytest.mark.parametrize("target", ["/%64erp", "/derp?x=1", "http://derp.example.test/derp"])
def test_the_relay_is_at_its_path_in_every_spelling(server: Server, target: str) -> None:
    with server.door.connect() as wire:
        wire.send(request("GET", target, "Upgrade: DERP", "Connection: Upgrade"))
        assert read_answer(wire).status == 101


def test_an_unknown_method_is_answered_like_any_other(server: Server) -> None:
    with server.door.connect() as wire:
        for method in ("FOO", "get", "M-SEARCH", "GETS"):
            wire.send(
                request(method, "/generate_204") + request(method, "/derp/probe") + request(method, "/robots.txt")
            )
            assert [read_answer(wire).status for _ in range(3)] == [204, 405, 200]


def test_requests_in_one_segment_are_answered_in_order(server: Server) -> None:
    with server.door.connect() as wire:
        targets = ["/robots.txt", "/generate_204", "/derp/probe", "/derp", "/robots.txt"]
        wire.send(b"".join(request("GET", target) for target in targets))
        assert [read_answer(wire).status for _ in targets] == [200, 204, 200, 426, 200]


def test_an_upgrade_in_one_segment_with_the_previous_request_is_accepted(server: Server) -> None:
    client = Client(server.door.connect())
    with client:
        client.wire.send(request("GET", "/generate_204") + upgrade_request(HOST, fast_start=True))
        assert read_answer(client.wire).status == 204
        client.greeted()
        client.log_in()
        assert client.fence() == []


def test_a_body_is_not_parsed_as_the_next_request(server: Server) -> None:
    with server.door.connect() as wire:
        body = request("GET", "/derp/probe")
        wire.send(request("POST", "/robots.txt", body=body) + request("GET", "/generate_204"))
        assert read_answer(wire).body == ROBOTS
        assert read_answer(wire).status == 204


def test_the_request_after_a_body_of_a_megabyte_is_answered(server: Server) -> None:
    with server.door.connect() as wire:
        wire.send(request("POST", "/robots.txt", body=bytes(1 << 20)))
        assert read_answer(wire).body == ROBOTS
        wire.send(request("GET", "/generate_204"))
        assert read_answer(wire).status == 204


def test_a_rejected_upgrade_keeps_the_connection_open(server: Server) -> None:
    with server.door.connect() as wire:
        wire.send(request("GET", "/derp", "Upgrade: h2c", "Connection: Upgrade"))
        assert read_answer(wire).status == 426
        logs_in(wire)


def test_a_chunked_body_is_answered_and_its_connection_closed(server: Server) -> None:
    with server.door.connect() as wire:
        wire.send(request("POST", "/robots.txt", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n")
        assert read_answer(wire).body == ROBOTS
        assert wire.rest() == b""


def test_an_upgrade_with_a_body_is_rejected_with_400(server: Server) -> None:
    for header, body in (("Content-Length: 3", b"abc"), ("Transfer-Encoding: chunked", b"0\r\n\r\n")):
        with server.door.connect() as wire:
            wire.send(request("POST", "/derp", "Upgrade: DERP", "Connection: Upgrade", header) + body)
            assert read_answer(wire).status == 400


def test_a_client_that_expects_100_continue_gets_it(server: Server) -> None:
    with server.door.connect() as wire:
        wire.send(request("POST", "/robots.txt", "Expect: 100-continue", "Content-Length: 2"))
        assert wire.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.send(b"ab")
        assert read_answer(wire).body == ROBOTS


def line(text: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((text, b"Host: x", *headers, b"", b""))


GOOD_HEADS = [
    pytest.param(b"GET /robots.txt HTTP/1.1\nHost: x\n\n", id="lines that end in a line feed alone"),
    pytest.param(line(b"GET /robots.txt HTTP/1.1", b"A: " + b"a" * 20_000), id="a header of 20 kB"),
    pytest.param(line(b"GET /robots.txt?" + b"a" * 20_000 + b" HTTP/1.1"), id="a query of 20 kB"),
    pytest.param(line(b"GET /robots.txt HTTP/1.1", *[b"A: b"] * 100), id="100 headers"),
    pytest.param(line(b"GET http://x/robots.txt HTTP/1.1"), id="a target in absolute form"),
    pytest.param(line(b"PUT /robots.txt HTTP/1.1", b"Content-Encoding: br", b"Content-Length: 1") + b"a", id="brotli"),
]  # fmt: skip
ODD_HEADS = [
    *GOOD_HEADS,
    pytest.param(line(b"GET / HTTP/1.1", b"A: b", b" c"), id="a folded header"),
    pytest.param(line(b"GET / HTTP/1.1", *[b"A: b"] * 500), id="500 headers"),
    pytest.param(line(b"GET / HTTP/1.1", *[b"A: b"] * 5_000), id="5,000 headers"),
    pytest.param(line(b"PUT / HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 3"), id="two lengths"),
    pytest.param(line(b"POST / HTTP/1.1", b"Content-Length: 2, 2") + b"ab", id="a length twice in one header"),
    pytest.param(line(b"POST / HTTP/1.1", b"Content-Length: 2", b"Content-Length: 2") + b"ab", id="a length twice"),
    pytest.param(line(b"POST / HTTP/1.1", b"Content-Length: 18446744073709551616"), id="a length of 2^64"),
    pytest.param(line(b"POST / HTTP/1.1", b"Content-Length: 18446744073709551615"), id="a length of 2^64 - 1"),
    pytest.param(line(b"get / HTTP/1.1"), id="a method in lower case"),
    pytest.param(line(b"FOO!# / HTTP/1.1"), id="an odd method"),
    pytest.param(line(b"GET http://[ HTTP/1.1"), id="an invalid absolute target"),
    pytest.param(line(b"GET http://x:99999/ HTTP/1.1"), id="a port beyond the last"),
    pytest.param(line(b"GET x:80 HTTP/1.1"), id="a target of host and port"),
    pytest.param(line(b"GET * HTTP/1.1"), id="an asterisk"),
    pytest.param(line(b"GET /%zz%00 HTTP/1.1"), id="a target with invalid escapes"),
    pytest.param(line(b"GET / HTTP/1.1", b'Cookie: "\\'), id="an invalid cookie"),
    pytest.param(line(b"GET / HTTP/1.1", b"A: \xff\xfe"), id="bytes beyond ASCII"),
]  # fmt: skip


@pytest.mark.parametrize("head", GOOD_HEADS)
def test_a_head_that_the_reference_accepts_is_answered(recorded: Recorded, head: bytes) -> None:
    with recorded("plain").door.connect() as wire:
        wire.send(head)
        answer = read_answer(wire)
        assert (answer.status_line, answer.body) == ("HTTP/1.1 200 OK", ROBOTS)


@pytest.mark.parametrize("head", ODD_HEADS)
def test_no_head_makes_the_server_reveal_its_libraries_or_log_several_lines(recorded: Recorded, head: bytes) -> None:
    server = recorded("plain")
    since = server.mark()
    with server.door.connect() as wire:
        wire.send(head)
        wire.finish()
        answer = wire.rest()
    assert answer.startswith(b"HTTP/1.1 ")
    assert b"\r\nServer: " not in answer
    with server.door.connect() as wire:  # the first request's lines are logged before the second is served
        wire.send(request("GET", "/generate_204"))
        read_answer(wire)
    assert "Traceback" not in server.log(since)
