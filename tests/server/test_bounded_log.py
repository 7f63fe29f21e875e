"""Log lines of one kind are bounded: some are written in full, and one line per interval counts the others."""

import asyncio
import re
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

import pytest
from serving import Server
from structlog.testing import capture_logs

from derper.server.bounded_log import BoundedLog, Bounds


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
    assert 1_000 < counted["count"] < 1_050  # the last may have been in flight when the server stopped
    assert counted["remotes"] == 1
    assert {"bad_request", "plain_http_on_tls", "tls_error", "eof"} <= counted.keys()


def at_info(logs: Iterable[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [line for line in logs if line["log_level"] == "info"]


def lines(**bounds: float) -> BoundedLog:
    return BoundedLog("closed", "more closed", bounds=Bounds(**{"first": 1, "later": 0, **bounds}))  # type: ignore[arg-type]


async def test_a_flood_writes_one_summary_line_per_interval() -> None:
    with capture_logs() as logs:
        bounded = lines(interval=0.02)
        async with asyncio.timeout(10):
            while len(at_info(logs)) < 4:
                bounded.write("tls_error", remote="192.0.2.1")
                await asyncio.sleep(0.001)
        bounded.stop()
    first, *others = [line["event"] for line in at_info(logs)]
    assert first == "closed"
    assert set(others) == {"more closed"}


async def test_after_a_quiet_interval_the_next_line_is_written_in_full() -> None:
    with capture_logs() as logs:
        bounded = lines(interval=0)
        bounded.write("eof", remote="192.0.2.1", detail="in the TLS handshake")
        await asyncio.sleep(0.01)  # the interval, and a turn of the loop
        bounded.write("bad_request", remote="192.0.2.2", detail="")
        bounded.stop()
    assert [line["remote"] for line in at_info(logs)] == ["192.0.2.1", "192.0.2.2"]


async def test_a_million_remotes_use_no_more_memory_than_a_thousand() -> None:
    with capture_logs() as logs:
        bounded = lines()
        for number in range(5_000):
            bounded.write("eof", remote=f"2001:db8::{number:x}")
        bounded.stop()
    assert (logs[-1]["count"], logs[-1]["remotes"], logs[-1]["eof"]) == (4_999, 1_000, 4_999)


async def test_one_network_gets_at_most_half_of_the_lines() -> None:
    with capture_logs() as logs:
        bounded = lines(first=6)
        for number in range(100):
            bounded.write("eof", remote=f"192.0.2.{number}")
        for number in range(4):
            bounded.write("eof", remote=f"198.51.{number}.1")
        bounded.stop()
    *whole, counts = at_info(logs)
    assert [line["remote"] for line in whole] == [
        "192.0.2.0", "192.0.2.1", "192.0.2.2", "198.51.0.1", "198.51.1.1", "198.51.2.1",
    ]  # fmt: skip
    assert (counts["event"], counts["count"], counts["remotes"]) == ("more closed", 98, 98)


async def test_in_a_flood_some_lines_of_each_interval_are_written_in_full() -> None:
    with capture_logs() as logs:
        bounded = lines(first=4, later=2, interval=0.05)
        async with asyncio.timeout(10):
            while [line["event"] for line in at_info(logs)].count("more closed") < 5:
                for number in range(20):
                    bounded.write("eof", remote=f"198.51.{number}.1")
                await asyncio.sleep(0.001)
        bounded.stop()
    text = "".join("w" if line["event"] == "closed" else "m" for line in at_info(logs))
    assert re.fullmatch("wwwwm(wwm)+", text), text


async def test_a_client_just_below_the_bound_gets_no_new_allowance() -> None:
    """Each interval adds at most `later` lines, whether or not any was suppressed."""
    with capture_logs() as logs:
        bounded = lines(first=10, later=1, interval=0.02)
        for _ in range(20):
            for number in range(5):
                bounded.write("eof", remote=f"198.51.{number}.1")
            count = len(at_info(logs))
            await asyncio.sleep(0.021)
        assert count <= 10 + 20 * 3
        bounded.stop()
