"""Two clients that exchange packets through a relay, in a separate process, and count the packets that arrive late.

    python tests/hostile/victim.py 1.2

Each client sends 100 numbered packets a second to the other one. Beside them new clients log in, one after the other.
The argument is the version of TLS, empty for a relay without TLS. Certificates are not verified.
The first line of standard input is the relay's URL. Standard output gets the line `ready` after the login. The line
`begin` on standard input starts the measured time, the end of standard input ends it. Then one line of JSON follows,
the members of `Figures`.
"""

import asyncio
import contextlib
import json
import ssl
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Final

from derper.client import DerpClient, Options, RecvPacket
from derper.errors import DerperError

PACKETS_A_SECOND: Final = 200
SIZE: Final = 400
STRAGGLER_SECONDS: Final = 10.0  # after the last packet was sent, until a missing one counts as lost
NEWCOMER_PAUSE: Final = 0.2
NEWCOMER_SECONDS: Final = 20.0
_HEAD: Final = struct.Struct(">Qd")


@dataclass
class Figures:
    """The results of the measured time; times are in milliseconds."""

    sent: int = 0
    lost: int = 0
    out_of_order: int = 0
    p50: float = 0.0
    p99: float = 0.0
    longest_silence: float = 0.0
    cut: str = ""  # why a connection of the pair ended, if one did
    logins: int = 0  # of new clients
    logins_failed: int = 0
    slowest_login: float = 0.0
    login_error: str = ""  # of the first login that failed


@dataclass
class _Way:
    """One direction of the pair."""

    sent: int = 0
    first: int = 0  # the number of the first packet of the measured time
    arrived: set[int] = field(default_factory=set)
    highest: int = -1
    out_of_order: int = 0
    latencies: list[float] = field(default_factory=list)
    last_arrival: float = 0.0
    silence: float = 0.0

    def begin(self) -> None:
        self.first = self.sent
        self.latencies.clear()
        self.silence, self.last_arrival = 0.0, time.monotonic()

    def packet(self) -> bytes:
        data = _HEAD.pack(self.sent, time.monotonic()).ljust(SIZE, b".")
        self.sent += 1
        return data

    def arrival(self, data: bytes) -> None:
        now = time.monotonic()
        number, sent_at = _HEAD.unpack_from(data)
        self.out_of_order += number <= self.highest
        self.highest = max(self.highest, number)
        self.arrived.add(number)
        if number >= self.first:
            self.latencies.append(1_000 * (now - sent_at))
        self.silence = max(self.silence, 1_000 * (now - self.last_arrival))
        self.last_arrival = now

    @property
    def lost(self) -> int:
        return self.sent - len(self.arrived)


class Pair:
    """The exchange between the two clients, and the logins beside it."""

    def __init__(self, url: str, options: Options) -> None:
        self._url, self._options = url, options
        self._ways = (_Way(), _Way())
        self._figures = Figures()
        self._measured = self._ending = False
        self._complete = asyncio.Event()  # at the end every packet has arrived, or a connection was cut

    async def run(self) -> Figures:
        clients = [DerpClient(self._url, None, self._options) for _ in range(2)]
        async with clients[0], clients[1]:
            receiving = [
                asyncio.create_task(self._receive(client, way)) for client, way in zip(clients, self._ways, strict=True)
            ]
            sending = asyncio.create_task(self._send(clients))
            joining = asyncio.create_task(self._join())
            await asyncio.to_thread(self._follow_orders)
            self._ending = True
            await asyncio.gather(sending, joining)
            if any(way.lost for way in self._ways) and not self._figures.cut:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._complete.wait(), STRAGGLER_SECONDS)
            for task in receiving:
                task.cancel()
            await asyncio.gather(*receiving, return_exceptions=True)
        return self._counted()

    def _follow_orders(self) -> None:
        print("ready", flush=True)  # noqa: T201  the answer to the process that started this one
        for _ in sys.stdin:
            for way in self._ways:
                way.begin()
            self._measured = True

    async def _send(self, clients: list[DerpClient]) -> None:
        due = time.monotonic()
        while not self._ending and not self._figures.cut:
            for client, other, way in zip(clients, reversed(clients), reversed(self._ways), strict=True):
                if not await client.send(other.key, way.packet()):
                    self._figures.cut = self._figures.cut or "a packet could not be sent"
            due += 2 / PACKETS_A_SECOND
            await asyncio.sleep(due - time.monotonic())

    async def _receive(self, client: DerpClient, way: _Way) -> None:
        try:
            async for message in client:
                if isinstance(message, RecvPacket):
                    way.arrival(message.packet)
                    if self._ending and not any(way.lost for way in self._ways):
                        self._complete.set()
            self._figures.cut = self._figures.cut or "the relay closed the connection"
        except DerperError as error:
            self._figures.cut = self._figures.cut or str(error)
        self._complete.set()

    async def _join(self) -> None:
        """Log in new clients, at least one in the measured time; a login that takes too long counts as failed."""
        while not self._ending or (self._measured and not self._figures.logins):
            began = time.monotonic()
            try:
                async with asyncio.timeout(NEWCOMER_SECONDS), DerpClient(self._url, None, self._options) as client:
                    await client.ping(NEWCOMER_SECONDS)
                error = ""
            except (DerperError, TimeoutError) as caught:
                error = str(caught) or "no answer in time"
            if self._measured:
                self._figures.logins += 1
                self._figures.logins_failed += bool(error)
                self._figures.login_error = self._figures.login_error or error
                self._figures.slowest_login = max(self._figures.slowest_login, 1_000 * (time.monotonic() - began))
            await asyncio.sleep(NEWCOMER_PAUSE)

    def _counted(self) -> Figures:
        figures = self._figures
        latencies = sorted(latency for way in self._ways for latency in way.latencies)
        figures.sent = sum(way.sent for way in self._ways)
        figures.lost = sum(way.lost for way in self._ways)
        figures.out_of_order = sum(way.out_of_order for way in self._ways)
        figures.longest_silence = max(way.silence for way in self._ways)
        if latencies:
            figures.p50, figures.p99 = (latencies[int(len(latencies) * part)] for part in (0.5, 0.99))
        return figures


@cache
def context_of(version: str) -> ssl.SSLContext | None:
    """Return TLS settings for one version, `1.2` or `1.3`; None for a relay without TLS."""
    if not version:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's roots, which take 50 ms to load
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    wanted = ssl.TLSVersion.TLSv1_2 if version == "1.2" else ssl.TLSVersion.TLSv1_3
    context.minimum_version = context.maximum_version = wanted
    return context


def main() -> None:
    (version,) = sys.argv[1:]
    url = sys.stdin.readline().strip()
    figures = asyncio.run(Pair(url, Options(tls=context_of(version), reconnect=False)).run())
    print(json.dumps(asdict(figures)))  # noqa: T201  the answer to the process that started this one


if __name__ == "__main__":
    main()
