"""CONNECT through a relay: the recorded answers, and bytes both ways with slow or misbehaving ends.

A server on its own loopback address replaces the control plane, at the real port; a hosts file has its names.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from live import Client, Server, config_of, connect, serving
from recorded import exchanges

from derper.host.names import Names
from derper.server.http import tunnels
from derper.server.http.tunnels import is_allowed

SECONDS: Final = 20.0
MEGABYTE: Final = 1 << 20
NAME: Final = "controlplane.tailscale.com"
OPEN: Final = b"HTTP/1.1 200 OK\r\n\r\n"
REFUSED: Final = [case for case in exchanges("tls-ace") if case["connection_after"] == "closed"]
NO_CONTENT: Final = b"HTTP/1.1 204 No Content\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Place:
    """A relay with -ace, and the server that replaces the control plane."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def ask(
        self, target: str = f"{NAME}:80", *headers: str, more: bytes = b"", source: str = "127.0.0.1"
    ) -> Streams:
        stream, out = await connect(self.server, source=source)
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", *headers, "", ""]
        out.write("\r\n".join(lines).encode() + more)
        return stream, out

    async def enter(self, source: str = "127.0.0.1") -> Streams:
        stream, out = await self.ask(source=source)
        assert await read(stream, len(OPEN)) == OPEN
        return stream, out


async def read(stream: asyncio.StreamReader, length: int) -> bytes:
    async with asyncio.timeout(SECONDS):
        return await stream.readexactly(length)


async def rest(stream: asyncio.StreamReader) -> bytes:
    with suppress(ConnectionError):
        async with asyncio.timeout(SECONDS):
            return await stream.read()
    return b""


@asynccontextmanager
async def place(folder: Path, serve: Serve) -> AsyncIterator[Place]:
    """Point the control plane's names to an address of this test, where `serve` answers on port 80."""
    address = "127.80.{}.{}".format(*os.urandom(2))
    hosts = folder / "hosts"
    hosts.write_text(
        f"{address} {NAME} nobody.tailscale.com\n127.0.0.1 example.com tailscale.com derp9.tailscale.com\n"
    )
    served: list[tuple[asyncio.Task[None] | None, asyncio.StreamWriter]] = []

    async def serve_and_close(stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        served.append((asyncio.current_task(), out))
        with suppress(ConnectionError):
            await serve(stream, out)
        out.close()

    target = await asyncio.start_server(serve_and_close, address, 80)
    flags = ("-certmode=manual", "-certdir", str(folder), "-hostname=127.0.0.1", "-http-port=-1", "-ace")
    async with serving(config_of(folder, *flags)) as server:
        server.parts.tunnels.names = lambda: Names(hosts=hosts)
        yield Place(server)
        for out in server.connections:
            out.transport.abort()
    target.close()
    for task, out in served:
        out.transport.abort()
        await asyncio.gather(*filter(None, [task]), out.wait_closed(), return_exceptions=True)


async def echo(stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
    while data := await stream.read(65_536):
        out.write(data)
        await out.drain()


async def no_content(stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
    await stream.readuntil(b"\r\n\r\n")
    out.write(NO_CONTENT)


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case["name"])
async def test_a_rejected_connect_gets_the_recorded_answer(case: dict[str, Any], tmp_path: Path) -> None:
    async with place(tmp_path, echo) as made:
        stream, out = await connect(made.server)
        out.write(case["request"].encode())
        head, _, body = (await rest(stream)).decode().partition("\r\n\r\n")
        assert await made.server.sample('derper_tls_active_version{version="1.3"}') == 1  # the request for it
    status_line, *lines = head.split("\r\n")
    assert (status_line, body) == (case["status_line"], case["body"])
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers | {"Date": "{date}"} == dict(case["headers"])


async def test_a_tunnel_forwards_a_request_its_answer_and_the_end_of_the_stream(tmp_path: Path) -> None:
    async with place(tmp_path, no_content) as made:
        stream, out = await made.enter()
        assert await made.server.sample('derper_tls_active_version{version="1.3"}') == 2
        out.write(b"GET /generate_204 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await rest(stream) == NO_CONTENT
        await made.server.wait_for('derper_tls_active_version{version="1.3"}', 1)


async def test_bytes_after_the_request_in_the_same_segment_enter_the_tunnel(tmp_path: Path) -> None:
    async with place(tmp_path, echo) as made:
        stream, _ = await made.ask(more=b"early")
        assert await read(stream, len(OPEN) + 5) == OPEN + b"early"


async def test_the_second_request_of_a_kept_connection_may_be_a_connect(tmp_path: Path) -> None:
    async with place(tmp_path, echo) as made:
        stream, out = await connect(made.server)
        out.write(b"GET /generate_204 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await stream.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
        out.write(f"CONNECT {NAME}:80 HTTP/1.1\r\nHost: a\r\n\r\nhello".encode())
        assert await read(stream, len(OPEN) + 5) == OPEN + b"hello"


async def test_eight_megabytes_each_way_at_once_arrive_unchanged(tmp_path: Path) -> None:
    async with place(tmp_path, echo) as made:
        stream, out = await made.enter()
        blob = os.urandom(8 * MEGABYTE)
        sending = asyncio.create_task(send(out, blob))
        assert hashlib.sha256(await read(stream, len(blob))).digest() == hashlib.sha256(blob).digest()
        await sending


async def send(out: asyncio.StreamWriter, data: bytes) -> None:
    out.write(data)
    await out.drain()


async def write_until_full(out: asyncio.StreamWriter) -> int:
    """Write until no byte is accepted for half a second; return the bytes written, part of them still buffered."""
    out.transport.set_write_buffer_limits(0)
    for sent in range(MEGABYTE, 64 * MEGABYTE, MEGABYTE):
        out.write(bytes(MEGABYTE))
        try:
            async with asyncio.timeout(0.5):
                await out.drain()
        except TimeoutError:
            return sent
    raise AssertionError("everything is taken")


async def test_a_target_that_reads_nothing_blocks_only_its_client(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    got: asyncio.Queue[int] = asyncio.Queue()

    async def slow(stream: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await go_on.wait()
        while data := await stream.read(65_536):
            got.put_nowait(len(data))

    async with place(tmp_path, slow) as made:
        _, out = await made.enter()
        sent = await write_until_full(out)
        assert sent < 32 * MEGABYTE  # two pairs of sockets in the kernel, and a small buffer of ours
        assert (await made.server.get("/generate_204"))[0] == 204
        go_on.set()
        async with asyncio.timeout(SECONDS):
            while sent:
                sent -= await got.get()


async def test_a_client_that_reads_nothing_blocks_its_target_and_loses_no_byte(tmp_path: Path) -> None:
    sent = 0
    full = asyncio.Event()

    async def flood(_: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        nonlocal sent
        sent = await write_until_full(out)
        full.set()
        await out.drain()

    async with place(tmp_path, flood) as made:
        stream, out = await made.enter()
        out.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(SECONDS):
            await full.wait()
        assert sent < 32 * MEGABYTE
        assert (await made.server.get("/generate_204"))[0] == 204
        out.transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await rest(stream)) == sent


@pytest.mark.parametrize("how", ["closes", "resets"])
async def test_the_end_of_a_client_closes_its_targets_connection(how: str, tmp_path: Path) -> None:
    gone = asyncio.Event()
    got = b""

    async def wait(stream: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal got
        with suppress(ConnectionError):
            got = await stream.read()
        gone.set()

    async with place(tmp_path, wait) as made:
        _, out = await made.enter()
        out.write(b"last words")
        if how == "closes":
            out.close()
        else:
            out.transport.abort()
        async with asyncio.timeout(SECONDS):
            await gone.wait()
        if how == "closes":
            assert got == b"last words"
        await made.server.wait_for('derper_tls_active_version{version="1.3"}', 1)


async def test_a_target_that_does_not_answer_in_time_is_a_bad_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "DIAL_SECONDS", 0.5)
    async with place(tmp_path, echo) as made:
        (tmp_path / "hosts").write_text(f"192.0.2.1 {NAME}\n")  # an address for documentation, without a host
        stream, _ = await made.ask()
        assert (await rest(stream)).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


async def test_the_next_address_is_tried_when_one_fails(tmp_path: Path) -> None:
    async with place(tmp_path, echo) as made:
        hosts = tmp_path / "hosts"
        hosts.write_text(f"127.80.255.255 {NAME}\n{hosts.read_text()}")
        stream, _ = await made.ask(more=b"x")
        assert await read(stream, len(OPEN) + 1) == OPEN + b"x"


async def test_a_client_that_leaves_during_the_dial_does_not_disturb_the_server(tmp_path: Path) -> None:
    async with place(tmp_path, echo) as made:
        (tmp_path / "hosts").write_text(f"192.0.2.1 {NAME}\n")
        _, out = await made.ask()
        out.transport.abort()
        await Client.log_in(made.server)
        await made.server.wait_for("derp_accepts", 1)


@pytest.mark.parametrize("header", ["Content-Length: 3", "Transfer-Encoding: chunked"])
async def test_a_connect_with_a_body_is_rejected(header: str, tmp_path: Path) -> None:
    async with place(tmp_path, echo) as made:
        stream, _ = await made.ask(f"{NAME}:80", header)
        assert (await rest(stream)).startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_tunnels_in_use_are_limited_and_an_ended_one_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "MOST_TUNNELS", 2)
    async with place(tmp_path, echo) as made:
        _, first = await made.enter()
        await made.enter()
        stream, _ = await made.ask()
        assert (await rest(stream)).startswith(b"HTTP/1.1 503 ")
        first.close()
        await made.server.wait_for('derper_tls_active_version{version="1.3"}', 2)
        await made.enter()


async def test_the_longest_idle_tunnel_makes_room_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "MOST_TUNNELS", 3)
    monkeypatch.setattr(tunnels, "SAFE_SECONDS", 0.0)
    async with place(tmp_path, echo) as made:
        busy, first, second = [await made.enter() for _ in range(3)]
        busy[1].write(b"x")
        assert await read(busy[0], 1) == b"x"
        third = await made.enter()
        assert await rest(first[0]) == b""
        await made.enter()
        assert await rest(second[0]) == b""
        for stream, out in (busy, third):
            out.write(b"y")
            assert await read(stream, 1) == b"y"
        assert await made.server.sample('derper_connections_evicted{kind="tunnel"}') == 2


async def test_idle_tunnels_of_one_address_do_not_use_up_those_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "MOST_TUNNELS", 3)
    monkeypatch.setattr(tunnels, "SAFE_SECONDS", 0.0)
    async with place(tmp_path, echo) as made:
        other, other_out = await made.enter(source="127.0.0.2")  # idle for longer than all later tunnels
        crowd = [await made.enter() for _ in range(4)]
        for stream, _ in crowd[:2]:
            assert await rest(stream) == b""
        other_out.write(b"z")
        assert await read(other, 1) == b"z"


async def test_an_idle_tunnel_is_closed_after_the_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "IDLE_SECONDS", 2.0)
    async with place(tmp_path, echo) as made:
        stream, out = await made.enter()
        began = asyncio.get_running_loop().time()
        for _ in range(4):
            await asyncio.sleep(0.7)
            out.write(b"x")
            assert await read(stream, 1) == b"x"
        assert await rest(stream) == b""
        assert asyncio.get_running_loop().time() - began > 4.5
        await made.server.wait_for('derper_tls_active_version{version="1.3"}', 1)


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        (f"{NAME}:443", True), (f"{NAME}:80", True), ("log.tailscale.com:443", True), ("a.b.tailscale.com:443", True),
        (f"{NAME}:8080", False), (f"{NAME}:0443", False), (f"{NAME}:", False), (NAME, False), (":443", False),
        ("tailscale.com:443", False), ("eviltailscale.com:443", False), (f"{NAME}.evil.test:443", False),
        (f"{NAME}.:443", False), ("derp1.tailscale.com:443", False), ("a-derp.tailscale.com:443", False),
        (NAME.upper() + ":443", False), (f"127.0.0.1:1@{NAME}:443", False), (f"[{NAME}]:443", False),
        (f"x:{NAME}:443", False), (f"https://{NAME}:443", False), ("[::1].tailscale.com:443", False),
    ],
)  # fmt: skip
def test_only_the_control_plane_is_a_target(target: str, allowed: bool) -> None:  # noqa: FBT001
    assert is_allowed(target) == allowed
