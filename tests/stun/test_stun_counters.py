"""STUN's counters and error handling, tested with the data plane alone."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from asking import client, header, request

from derper.config import ListenAddress
from derper.dataplane import DataPlane, Event, PlaneSettings, StunFailed
from derper.protocol.keys import NodePrivate
from derper.server.listeners import bind_stun

if TYPE_CHECKING:
    from collections.abc import Iterator

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/stun.json").read_text())
LOOPBACK = ListenAddress(ip_address("127.0.0.1"), 0)
IP_RECVERR = 11
ZEROS = {
    "stun_requests_success": 0,
    "stun_requests_not_stun": 0,
    "stun_requests_read_error": 0,
    "stun_requests_write_error": 0,
    "stun_addrfamily_ipv4": 0,
    "stun_addrfamily_ipv6": 0,
    "stun_no_local_addr": 0,
    "stun_kernel_drops": 0,
}


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    made = DataPlane(PlaneSettings(shards=2, server_key=NodePrivate.from_entropy(os.urandom(32)).public()))
    yield made
    made.stop()


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with bind_stun(LOOPBACK) as made:
        yield made


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


async def until(plane: DataPlane, name: str, at_least: int) -> None:
    async with asyncio.timeout(10):
        while plane.stun_counters()[name] < at_least:  # noqa: ASYNC110  counters are asked, they do not tell
            await asyncio.sleep(0)


def test_without_stun_all_counters_exist_and_are_zero(plane: DataPlane) -> None:
    assert plane.stun_counters() == ZEROS


async def test_every_recorded_datagram_is_counted_as_by_the_reference(plane: DataPlane) -> None:
    good = sum(case["answered"] for case in VECTORS["datagrams"])
    bad = len(VECTORS["datagrams"]) - good
    with bind_stun(ListenAddress(None, 0)) as both:
        plane.serve_stun(both, any_client=False)
        for ip in ("127.0.0.1", "::1"):
            with client(ip, port_of(both)) as asking:
                for case in VECTORS["datagrams"]:
                    asking.send(bytes.fromhex(case["datagram"]))
        await until(plane, "stun_requests_success", 2 * good)
        await until(plane, "stun_requests_not_stun", 2 * bad)
    assert plane.stun_counters() == ZEROS | {
        "stun_requests_success": 2 * good,
        "stun_requests_not_stun": 2 * bad,
        "stun_addrfamily_ipv4": good,
        "stun_addrfamily_ipv6": good,
    }


async def test_datagrams_received_before_the_start_are_answered(plane: DataPlane, sock: socket.socket) -> None:
    with client("127.0.0.1", port_of(sock)) as asking:
        for number in range(200):
            asking.send(request(number.to_bytes(12, "big")))
        plane.serve_stun(sock, any_client=False)
        answered = [int.from_bytes(asking.receive()[8:20], "big") for _ in range(200)]
    assert answered == list(range(200))


async def test_datagrams_dropped_by_the_kernel_are_counted(plane: DataPlane, sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with client("127.0.0.1", port_of(sock)) as asking:
        for number in range(100):
            asking.send(request(number.to_bytes(12, "big")))
        plane.serve_stun(sock, any_client=False)
        await until(plane, "stun_requests_success", 1)
    with client("127.0.0.1", port_of(sock)) as asking:
        asking.ask()
    counters = plane.stun_counters()
    assert 0 < counters["stun_kernel_drops"] < 100


async def test_a_read_error_is_counted_reported_once_and_survived(plane: DataPlane, sock: socket.socket) -> None:
    # Makes the kernel report an undeliverable answer at the next read.
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    told: asyncio.Queue[Event] = asyncio.Queue()
    plane.start(told.put_nowait)
    plane.serve_stun(sock, any_client=False)
    with socket.socket(type=socket.SOCK_DGRAM) as deaf:
        # It accepts datagrams only from there, so the server's answers are undeliverable.
        deaf.connect(("127.0.0.1", 9))
        for number in range(1, 4):
            deaf.sendto(request(bytes(12)), sock.getsockname())
            await until(plane, "stun_requests_read_error", number)
    with client("127.0.0.1", port_of(sock)) as asking:
        asking.ask()
    async with asyncio.timeout(10):
        assert await told.get() == StunFailed("Connection refused (os error 111)")
    assert told.empty()


async def test_an_answer_that_cannot_be_sent_is_counted(plane: DataPlane, sock: socket.socket) -> None:
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    except PermissionError:
        pytest.skip("a datagram from port 0 needs a raw socket, which this user may not have")
    plane.serve_stun(sock, any_client=True)
    bare = header(0, bytes(12))
    with raw:
        raw.sendto(struct.pack(">HHHH", 0, port_of(sock), 8 + len(bare), 0) + bare, ("127.0.0.1", 0))
    await until(plane, "stun_requests_write_error", 1)
    with client("127.0.0.1", port_of(sock)) as asking:
        asking.ask()


def test_a_second_socket_is_rejected(plane: DataPlane, sock: socket.socket) -> None:
    plane.serve_stun(sock, any_client=False)
    with pytest.raises(OSError, match="STUN has its socket already"):
        plane.serve_stun(sock, any_client=False)
    with client("127.0.0.1", port_of(sock)) as asking:
        asking.ask()


def test_an_invalid_socket_is_rejected_and_a_valid_one_accepted_later(plane: DataPlane, sock: socket.socket) -> None:
    with socket.socket() as closed:
        number = closed.fileno()
        reading, writing = os.pipe()
        os.dup2(reading, number)
        with pytest.raises(OSError, match="Socket operation on non-socket"):
            plane.serve_stun(closed, any_client=False)
    os.close(reading)
    os.close(writing)
    plane.serve_stun(sock, any_client=False)
