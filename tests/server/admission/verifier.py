"""Verifiers for tests: HTTP over TCP or a unix socket, with every byte of an answer set by the test; and clients.

`tests/interop/test_real_tailnet.py` uses real ones, a tailscaled and Headscale.
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from live import SECONDS, Client, Server, connect
from structlog.typing import EventDict

from derper.protocol import ClientInfo, FrameReader, LoginBox, NodePrivate, ServerKey
from derper.protocol.decode import SERVER_LIMITS, decode_from_server
from derper.protocol.frames import FrameType, Health, Ping, Pong
from derper.protocol.login import LOGIN_LIMITS, NONCE_LEN, client_info_frame, open_server_info
from derper.protocol.upgrade import UpgradeAnswer, upgrade_request

ALLOW = b'{"Allow":true}'
REFUSE = b'{"Allow":false}'


def http(body: bytes = b"", status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """Return a whole answer; `length` overrides the Content-Length of the body."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True)
class Question:
    """One received request."""

    line: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def key(self) -> str:
        """The client's key in a request to a controller."""
        key: str = json.loads(self.body)["NodePublic"]
        return key


Answering = Callable[[Question], Awaitable[bytes]]


@dataclass
class Verifier:
    """A server that sends the result of `answer` for each request; for an empty result it closes the connection."""

    answer: Answering
    url: str = ""
    socket: Path = Path()
    asked: list[Question] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)  # set by the first request

    async def serve(self, stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        try:
            while head := await stream.readuntil(b"\r\n\r\n"):
                line, *fields = head.decode().rstrip().split("\r\n")
                headers = {name.lower(): value for name, value in (text.split(": ", 1) for text in fields)}
                body = await stream.readexactly(int(headers.get("content-length", "0")))
                question = Question(line, headers, body)
                self.asked.append(question)
                self.came.set()
                if not (answer := await self.answer(question)):
                    return
                out.write(answer)
                await out.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            out.close()


def always(answer: bytes) -> Answering:
    async def give(_question: Question) -> bytes:
        return answer

    return give


def never() -> Answering:
    async def wait(_question: Question) -> bytes:
        await asyncio.Event().wait()
        return b""

    return wait


@asynccontextmanager
async def at_a_url(answer: Answering, tls: ssl.SSLContext | None = None) -> AsyncIterator[Verifier]:
    verifier = Verifier(answer)
    async with _listening(await asyncio.start_server(_tracked(verifier), "127.0.0.1", 0, ssl=tls)) as server:
        verifier.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/verify?a=b"
        yield verifier


@asynccontextmanager
async def at_a_socket(socket: Path, answer: Answering) -> AsyncIterator[Verifier]:
    verifier = Verifier(answer, socket=socket)
    async with _listening(await asyncio.start_unix_server(_tracked(verifier), socket)):
        yield verifier


_serving: set[asyncio.Task[None]] = set()


def _tracked(verifier: Verifier) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
    def serve(stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(verifier.serve(stream, out))
        _serving.add(task)
        task.add_done_callback(_serving.discard)

    return serve


@asynccontextmanager
async def _listening(server: asyncio.Server) -> AsyncIterator[asyncio.Server]:
    try:
        yield server
    finally:
        server.close()
        for task in list(_serving):
            task.cancel()
        await asyncio.gather(*_serving, return_exceptions=True)


async def try_login(server: Server, private: NodePrivate | None = None, **info: Any) -> str | None:  # noqa: ANN401  ClientInfo's
    """Log in; return None if the relay relays, else the problem in its Health frame before it closes."""
    stream, out = await connect(server)
    out.write(upgrade_request("derp.example.test"))
    UpgradeAnswer.parse(await stream.readuntil(b"\r\n\r\n"))
    private = private or NodePrivate.from_entropy(os.urandom(32))
    client = Client(private.public(), stream, out, FrameReader(LOGIN_LIMITS))
    box = LoginBox(private, ServerKey.decode(await client.next_frame()).key)
    out.write(client_info_frame(client.key, ClientInfo(**info), box, os.urandom(NONCE_LEN)))
    first = await client.next_frame()
    if first.type == FrameType.HEALTH:
        async with asyncio.timeout(SECONDS):
            assert await rest(stream) == b""
        return Health.from_payload(first.payload).problem
    open_server_info(first, box)
    client.frames.allow(SERVER_LIMITS)
    out.write(Ping(b"are you?").encode())
    assert decode_from_server(await client.next_frame()) == Pong(b"are you?")
    return None


async def rest(stream: asyncio.StreamReader) -> bytes:
    """Return all bytes until the end of the stream or a reset."""
    try:
        return await stream.read()
    except ConnectionError:
        return b""


async def disconnect_reason(client: Client) -> str:
    """Return the problem in the Health frame that a client gets before the end."""
    frame = decode_from_server(await client.next_frame())
    assert isinstance(frame, Health)
    async with asyncio.timeout(SECONDS):
        assert await rest(client.stream) == b""
    return frame.problem


async def stays(client: Client) -> None:
    client.out.write(Ping(b"are you?").encode())
    assert decode_from_server(await client.next_frame()) == Pong(b"are you?")


async def logged_event(log: list[EventDict], event: str) -> EventDict:
    """Return the last line of that event as soon as there is one."""
    async with asyncio.timeout(SECONDS):
        while True:
            if found := [line for line in log if line["event"] == event]:
                return found[-1]
            await asyncio.sleep(0.01)  # there is no notification of a new line
