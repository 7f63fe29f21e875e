"""A client that resets in the middle of an HTTP exchange is an ordinary event: the log has no traceback for it."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from derpwire import HOST, SECONDS, RelayAddress, WireError
from httpwire import read_answer, request
from serving import Server

from derper.web import serving

EXCHANGES = 300
HALF_A_BODY = b"Content-Length: 1000\r\n\r\n" + bytes(10)
ACTS = {
    "a GET": request("GET", "/"),
    "a GET of a page that is not there": request("GET", "/nowhere"),
    "a POST whose body is cut": request("POST", "/").removesuffix(b"\r\n") + HALF_A_BODY,
    "a POST to the relay whose body is cut": request("POST", "/derp").removesuffix(b"\r\n") + HALF_A_BODY,
    "a chunked POST that is cut": request("POST", "/", "Transfer-Encoding: chunked") + b"3e8\r\nabc",
    "two requests at once": 2 * request("GET", "/robots.txt"),
}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("resets")
    with Server(folder, "-log-level", "info", "-admin", f"{HOST}:0", tls=request.param) as server:
        yield server


def admin_door(server: Server) -> RelayAddress:
    return RelayAddress(int(server.logged(r'event="serving admin" address=\S+:(\d+)')[1]))


def still_answers(door: RelayAddress) -> None:
    """Get a page after the reset connections have ended: the admin listener accepts few at a time."""
    deadline = time.monotonic() + SECONDS
    while True:
        with door.connect() as wire:
            wire.offer(request("GET", "/robots.txt"))
            try:
                read_answer(wire)
            except WireError:
                assert time.monotonic() < deadline, "no answer"
                time.sleep(0.05)  # there is no sign of the last connection's end
            else:
                return


def without_a_traceback(server: Server, since: int) -> None:
    log = server.log(since)
    assert "Traceback" not in log, log[:4_000]
    assert "level=error" not in log, log[:4_000]


@pytest.mark.parametrize("act", ACTS)
def test_a_request_and_a_reset_write_no_traceback(server: Server, act: str) -> None:
    since = server.mark()
    for _ in range(EXCHANGES):
        wire = server.door.connect()
        wire.offer(ACTS[act])
        wire.reset()
    still_answers(server.door)
    without_a_traceback(server, since)


@pytest.mark.parametrize("act", ACTS)
def test_a_request_and_an_end_write_no_traceback(server: Server, act: str) -> None:
    """The client stops sending and closes at once, so the answer meets a reset."""
    since = server.mark()
    for _ in range(EXCHANGES):
        with server.door.connect() as wire, suppress(OSError):
            wire.offer(ACTS[act])
            wire.finish()
    still_answers(server.door)
    without_a_traceback(server, since)


GARBAGE = [
    *ACTS.values(),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + bytes(100) + b"\r\n\r\n",
    b"GET /" + b"a" * 20_000,
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\n",
]


@pytest.mark.parametrize("breaks_off", [True, False], ids=["resets", "waits"])
def test_the_admin_listener_writes_no_traceback_for_garbage(server: Server, breaks_off: bool) -> None:  # noqa: FBT001
    door, since = admin_door(server), server.mark()
    for number in range(EXCHANGES):
        wire = door.connect()
        wire.offer(GARBAGE[number % len(GARBAGE)])
        if breaks_off:
            wire.reset()
        else:
            with suppress(OSError):
                socket.socket.shutdown(wire.sock, socket.SHUT_WR)
                wire.rest()
            wire.close()
    still_answers(door)
    without_a_traceback(server, since)


async def _faulty(_request: web.Request) -> web.Response:
    raise KeyError("a bug")


async def test_a_bug_in_a_handler_keeps_its_traceback_and_a_malformed_request_has_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    application = web.Application()
    application.router.add_get("/", _faulty)
    runner = serving.runner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    try:
        for sent, status in ((GARBAGE[-4], 400), (request("GET", "/"), 500)):
            stream, out = await asyncio.open_connection(*runner.addresses[0])
            out.write(sent)
            assert int((await stream.readuntil(b"\r\n")).split()[1]) == status
            out.close()
    finally:
        await runner.cleanup()
    (said,) = caplog.records
    assert said.exc_info is not None
    assert isinstance(said.exc_info[1], KeyError)


def test_every_http_server_uses_the_same_logger() -> None:
    source = Path(serving.__file__).parents[1]
    makers = [path.name for path in source.rglob("*.py") if "AppRunner(" in path.read_text()]
    assert makers == ["serving.py"]
