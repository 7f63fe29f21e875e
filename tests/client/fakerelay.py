"""A fake relay for faults of relays: the test sends every frame after the login."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from derper.protocol.decode import CLIENT_LIMITS, FromClient, decode_from_client
from derper.protocol.keys import NodePrivate, NodePublic
from derper.protocol.login import (
    LOGIN_LIMITS,
    NONCE_LEN,
    ClientLogin,
    LoginBox,
    ServerInfo,
    ServerKey,
    server_info_frame,
)
from derper.protocol.reader import FrameReader, RawFrame
from derper.protocol.upgrade import DerpUpgrade, RequestHead, decide

SERVER = NodePrivate.from_entropy(bytes(range(32)))


@dataclass
class Guest:
    """One client's connection to the fake relay."""

    stream: asyncio.StreamReader
    out: asyncio.StreamWriter
    key: NodePublic
    box: LoginBox
    frames: FrameReader

    async def raw(self) -> RawFrame:
        while (frame := self.frames.next_frame()) is None:
            data = await self.stream.read(65_536)
            assert data, "the client hung up"
            self.frames.feed(data)
        return frame

    async def next(self) -> FromClient | None:
        """Return the client's next frame."""
        return decode_from_client(await self.raw(), mesh_peer=False)

    def inform(self, info: ServerInfo) -> None:
        self.out.write(server_info_frame(info, self.box, os.urandom(NONCE_LEN)))

    async def hang_up(self) -> None:
        self.out.close()
        await self.out.wait_closed()


Play = Callable[[Guest], Awaitable[None]]


async def let_in(stream: asyncio.StreamReader, out: asyncio.StreamWriter, info: ServerInfo) -> Guest:
    """Do the server's part of upgrade and login."""
    upgrade = decide(RequestHead.parse(await stream.readuntil(b"\r\n\r\n")))
    assert isinstance(upgrade, DerpUpgrade)
    out.write(upgrade.answer(SERVER.public()) + ServerKey(SERVER.public()).encode())
    frames = FrameReader(LOGIN_LIMITS)
    while (first := frames.next_frame()) is None:
        frames.feed(await stream.read(65_536))
    login = ClientLogin.open(first, SERVER)
    frames.allow(CLIENT_LIMITS)
    guest = Guest(stream, out, login.key, login.box, frames)
    guest.inform(info)
    return guest


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """Yield a URL whose connections this function serves; the rest are aborted at the end."""
    served: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def until_gone(stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await serve(stream, out)

    def accept(stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        served[asyncio.create_task(until_gone(stream, out))] = out

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for out in served.values():
            out.transport.abort()
        await asyncio.gather(*served)
        await asyncio.sleep(0)  # they are closed in this iteration of the loop


@asynccontextmanager
async def fake_relay(*plays: Play, info: ServerInfo | None = None) -> AsyncIterator[str]:
    """Yield a URL where the next play serves each connection, and the last play all further ones."""
    waiting = list(plays)

    async def serve(stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        play = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        await play(await let_in(stream, out, info or ServerInfo()))

    async with listening(serve) as url:
        yield url


@asynccontextmanager
async def raw_server(answer: bytes, *, until: bytes = b"\r\n\r\n", hang_up: bool = True) -> AsyncIterator[str]:
    """Yield a URL whose server sends these bytes after a request that ends with `until`."""

    async def serve(stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        await (stream.readuntil(until) if until else stream.read(1))
        out.write(answer)
        if hang_up:
            out.close()
            await out.wait_closed()
        else:
            await stream.read()

    async with listening(serve) as url:
        yield url
