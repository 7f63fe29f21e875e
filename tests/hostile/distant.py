"""Distant clients: each logs in through a proxy of this process that delays every byte.

    python tests/hostile/distant.py https://127.0.0.1:4433 1.2 200 0.4

Arguments: the relay, the version of TLS (empty without TLS), the number of clients, and the delay in seconds of each
direction. Certificates are not verified. Standard output gets one line of JSON, the members of `Logins`.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Final
from urllib.parse import urlsplit

from victim import context_of

from derper.client import DerpClient, Options, connection
from derper.errors import DerperError

LOGIN_SECONDS: Final = 60.0  # longer than the relay waits for a login
AT_ONCE: Final = 64 * 1024


@dataclass
class Logins:
    """The results of all clients."""

    succeeded: int = 0
    slowest: float = 0.0  # seconds, of the logins that succeeded
    errors: dict[str, int] = field(default_factory=dict)  # number of failed logins, by error


class DelayingProxy:
    """A TCP proxy on a free port that delivers each byte `delay` seconds after its arrival."""

    def __init__(self, host: str, port: int, delay: float) -> None:
        self._to = (host, port)
        self._delay = delay
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1_024)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        try:
            relay_stream, relay_out = await asyncio.open_connection(*self._to)
            await asyncio.gather(self._pump(stream, relay_out), self._pump(relay_stream, out))
        except OSError:
            out.transport.abort()

    async def _pump(self, stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        data = b"\0"
        while data:
            try:
                data = await stream.read(AT_ONCE)
            except OSError:
                data = b""
            # Timers of one delay run in the order in which they were set.
            loop.call_later(self._delay, _deliver, out, data)


def _deliver(out: asyncio.StreamWriter, data: bytes) -> None:
    if data:
        out.write(data)
    else:
        out.close()


async def log_in(url: str, options: Options, logins: Logins, errors: Counter[str]) -> None:
    began = time.monotonic()
    try:
        async with DerpClient(url, None, options) as client:
            await client.ping(LOGIN_SECONDS)
        logins.succeeded += 1
        logins.slowest = max(logins.slowest, time.monotonic() - began)
    except (DerperError, TimeoutError) as error:
        errors[str(error) or "no answer in time"] += 1


async def all_logins(url: str, version: str, count: int, delay: float) -> Logins:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = DelayingProxy(parts.hostname, parts.port, delay)
    logins, errors = Logins(), Counter[str]()
    async with await proxy.start():
        through = f"{parts.scheme}://{parts.hostname}:{proxy.port}"
        options = Options(tls=context_of(version), reconnect=False)
        await asyncio.gather(*(log_in(through, options, logins, errors) for _ in range(count)))
    logins.errors = dict(errors)
    return logins


def main() -> None:
    url, version, count, delay = sys.argv[1:]
    connection.LOGIN_SECONDS = LOGIN_SECONDS
    with suppress(KeyboardInterrupt):
        logins = asyncio.run(all_logins(url, version, int(count), float(delay)))
        print(json.dumps(asdict(logins)))  # noqa: T201  the answer to the process that started this one


if __name__ == "__main__":
    main()
