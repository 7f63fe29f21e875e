"""The whole server in the test's own loop, with clients that use the protocol over real sockets."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, cast

from slowcallbacks import none_is_slow

from derper.cli.environment import Environment
from derper.cli.flags import DERPER_FLAGS
from derper.cli.goflags import parse
from derper.cli.settings import config_from
from derper.config import Config
from derper.dataplane import DataPlane, Remote
from derper.protocol import ClientInfo, FrameReader, LoginBox, NodePrivate, NodePublic, RawFrame, ServerKey
from derper.protocol.decode import SERVER_LIMITS
from derper.protocol.keys import MeshKey
from derper.protocol.login import LOGIN_LIMITS, NONCE_LEN, client_info_frame, open_server_info
from derper.protocol.upgrade import RequestHead, UpgradeAnswer, upgrade_request
from derper.server import app
from derper.server.http.connection import HttpServer

SECONDS = 20.0  # timeout of waits


def config_of(folder: Path, *flags: str, **environ: str) -> Config:
    """Return a configuration as the program makes it; the kernel chooses the listener's port."""
    words = ("-c", str(folder / "derper.key"), "-a", "127.0.0.1:0", "-stun=false", "-http-port=-1", *flags)
    return config_from(parse(DERPER_FLAGS, words), Environment(environ, is_root=False, cores=2))


@dataclass
class Server:
    parts: app.Server
    port: int
    tls: bool
    name: str  # TLS server name
    connections: list[asyncio.StreamWriter] = field(default_factory=list)

    async def get(self, path: str) -> tuple[int, str]:
        """Return the status and body of a page, requested on a new connection."""
        stream, out = await connect(self)
        out.write(f"GET {path} HTTP/1.1\r\nHost: derp.example.test\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await stream.read()).decode().partition("\r\n\r\n")
        out.close()
        return int(head.split()[1]), body

    async def sample(self, name: str) -> float:
        """Return a sample of /debug/varz by its name and labels as written; 0 if it is absent."""
        _, text = await self.get("/debug/varz")
        return next((float(line.split()[-1]) for line in text.splitlines() if line.rpartition(" ")[0] == name), 0)

    async def wait_for(self, name: str, value: float) -> None:
        """Wait until a sample has this value."""
        async with asyncio.timeout(SECONDS):
            while True:  # metrics have no notification, so poll
                if await self.sample(name) == value:
                    return
                await asyncio.sleep(0.01)

    async def wait_for_at_least(self, family: str, value: float) -> None:
        """Wait until the sum of a family's samples, of all labels, is at least this value."""
        async with asyncio.timeout(SECONDS):
            while True:
                if await self.total(family) >= value:
                    return
                await asyncio.sleep(0.01)

    async def total(self, family: str) -> float:
        """Return the sum of the family's samples, of all labels; 0 if there are none."""
        _, text = await self.get("/debug/varz")
        samples = (line.rpartition(" ") for line in text.splitlines() if line.startswith(f"{family}{{"))
        return sum(float(value) for _, _, value in samples)


async def connect(server: Server, *, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    tls = None
    if server.tls:
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    name = server.name if server.tls else None
    stream, out = await asyncio.open_connection(
        "127.0.0.1", server.port, ssl=tls, server_hostname=name, local_addr=(source, 0)
    )
    server.connections.append(out)
    return stream, out


@asynccontextmanager
async def serving(config: Config, *, rtt_interval: float = 10.0, shards: int = 2) -> AsyncIterator[Server]:
    config = replace(config, relay=replace(config.relay, shards=shards))
    with none_is_slow():
        async with app.Server(config, lambda: config, rtt_interval=rtt_interval) as parts:
            server = Server(
                parts, int(parts.listening.address.rpartition(":")[2]), config.serves_tls, config.tls.hostname
            )
            yield server
            for out in server.connections:
                out.close()
            await asyncio.gather(*(out.wait_closed() for out in server.connections), return_exceptions=True)


@dataclass
class Client:
    """One logged-in connection."""

    key: NodePublic
    stream: asyncio.StreamReader
    out: asyncio.StreamWriter
    frames: FrameReader

    @classmethod
    async def log_in(
        cls,
        server: Server,
        *,
        private: NodePrivate | None = None,
        mesh_key: MeshKey | None = None,
        ideal_node: str | None = None,
    ) -> Self:
        stream, out = await connect(server)
        out.write(upgrade_request("derp.example.test", ideal_node=ideal_node))
        UpgradeAnswer.parse(await stream.readuntil(b"\r\n\r\n"))
        private = private or NodePrivate.from_entropy(os.urandom(32))
        client = cls(private.public(), stream, out, FrameReader(LOGIN_LIMITS))
        box = LoginBox(private, ServerKey.decode(await client.next_frame()).key)
        info = ClientInfo(mesh_key=mesh_key)
        out.write(client_info_frame(client.key, info, box, os.urandom(NONCE_LEN)))
        open_server_info(await client.next_frame(), box)
        client.frames.allow(SERVER_LIMITS)
        return client

    async def next_frame(self) -> RawFrame:
        async with asyncio.timeout(SECONDS):
            while (frame := self.frames.next_frame()) is None:
                data = await self.stream.read(65_536)
                assert data, "the relay closed the connection"
                self.frames.feed(data)
        return frame


class _Sink:
    """Replaces the data plane under a connection without a socket."""

    def __init__(self) -> None:
        self.written = b""
        self.done = asyncio.Event()

    def write(self, _conn: int, data: bytes, *, tell_drained: bool = False) -> None:
        assert not tell_drained
        self.written += data

    def await_head(self, _conn: int) -> None:
        self.done.set()

    def close(self, _conn: int, _code: str, _detail: str = "") -> None:
        self.done.set()


async def answer_to(http: HttpServer, request: bytes, remote: str) -> tuple[int, dict[str, str], bytes]:
    """Return the answer to a request from this address: status, headers, body."""
    sink = _Sink()
    connection = http.connect(cast("DataPlane", sink), 1, Remote(remote, 4711))
    connection.request_received(RequestHead.parse(request), None)
    async with asyncio.timeout(SECONDS):
        await sink.done.wait()
    connection.connection_lost()
    head, _, body = sink.written.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body
