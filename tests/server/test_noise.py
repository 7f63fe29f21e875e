"""What an open port is sent by strangers is one line a minute in the log, whatever it is and however much."""

import asyncio
import re
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import pytest
from serving import Server
from structlog.testing import capture_logs

from derper.server.noise import Noise


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("noise")
    with Server(folder, "-log-level", "info", "-http-port", "0", tls=True) as server:
        yield server


def test_a_thousand_bad_connections_are_two_lines(server: Server) -> None:
    since = server.mark()
    offers = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x80\x01", bytes(300), b""]
    for number in range(1_000):
        with server.raw_door.connect() as wire:
            wire.offer(offers[number % len(offers)])
            wire.finish()
            wire.rest()
    for _ in range(50):
        with server.door.connect() as wire:
            wire.offer(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
            assert wire.rest().startswith(b"HTTP/1.1 400 ")
    server.stop()
    lines = [line for line in server.log(since).splitlines() if "closed" in line]
    assert len(lines) == 2, lines
    assert re.search(r'event="connection closed" remote=127\.0\.0\.1 reason=\w+ ', lines[0])
    counted = {name: int(count) for name, count in re.findall(r" (\w+)=(\d+)", lines[1])}
    assert 1_000 < counted["count"] < 1_050  # the last may have been on their way when the server was stopped
    assert counted["remotes"] == 1
    assert {"bad_request", "plain_http_on_tls", "tls_error", "eof"} <= counted.keys()


def at_info(logs: Iterable[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [line for line in logs if line["log_level"] == "info"]


async def test_while_the_noise_goes_on_it_is_one_line_an_interval() -> None:
    with capture_logs() as logs:
        noise = Noise(interval=0.02)
        async with asyncio.timeout(10):
            while len(at_info(logs)) < 4:
                noise.heard("192.0.2.1", "tls_error", "")
                await asyncio.sleep(0.001)
        noise.stop()
    first, *others = [line["event"] for line in at_info(logs)]
    assert first == "connection closed"
    assert set(others) == {"more connections closed before anybody logged in"}


async def test_after_a_quiet_interval_the_next_one_is_told_at_once() -> None:
    with capture_logs() as logs:
        noise = Noise(interval=0)
        noise.heard("192.0.2.1", "eof", "in the TLS handshake")
        await asyncio.sleep(0.01)  # the interval, and a turn of the loop
        noise.heard("192.0.2.2", "bad_request", "")
        noise.stop()
    assert [line["remote"] for line in at_info(logs)] == ["192.0.2.1", "192.0.2.2"]


async def test_a_million_remotes_take_no_more_room_than_a_thousand() -> None:
    with capture_logs() as logs:
        noise = Noise()
        for number in range(5_000):
            noise.heard(f"2001:db8::{number:x}", "eof", "")
        noise.stop()
    assert (logs[-1]["count"], logs[-1]["remotes"], logs[-1]["eof"]) == (4_999, 1_000, 4_999)
