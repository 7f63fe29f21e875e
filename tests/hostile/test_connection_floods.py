"""One byte on each of many connections, more than the relay's limit before login, while distant clients log in."""

import json
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from beside import HERE, Beside, Target, Wire, tls_version
from relays import GoDerper, OurDerper, Relay

pytest_plugins = ["attacktable"]

DESCRIPTORS: Final = 8_192  # of the relay; our limit of connections before login is half of it
CONNECTIONS: Final = 6_000  # held by the attacker at any time
NEW_A_SECOND: Final = 400
DISTANT_CLIENTS: Final = 200
ROUND_TRIP: Final = 0.8  # seconds
DISTANT_SECONDS: Final = 120.0  # for all distant clients, on a slow machine

ONE_BYTE: Final = b"\x16"  # the first byte of a TLS record


class Flood:
    """Connections of one byte each: at most `most` at a time, after which the oldest are replaced."""

    def __init__(self, port: int, sources: Sequence[str], most: int) -> None:
        self._to = ("127.0.0.1", port)
        self._sources = sources
        self._most = most
        self._held: deque[socket.socket] = deque()
        self._silent: list[socket.socket] = []  # the byte is not sent yet
        self.made = 0
        self.closed = 0  # number of replaced connections that the relay had closed

    def add(self, count: int) -> None:
        for sock in self._silent:
            _send(sock)
        self._silent.clear()
        for _ in range(count):
            if len(self._held) >= self._most:
                self._end(self._held.popleft())
            sock = socket.socket()
            sock.setblocking(False)
            # Without a bound port, the kernel chooses one at connect: 28,000 ports for each source.
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((self._sources[self.made % len(self._sources)], 0))
            sock.connect_ex(self._to)
            self._held.append(sock)
            if not _send(sock):
                self._silent.append(sock)
            self.made += 1

    def close(self) -> None:
        while self._held:
            self._end(self._held.pop())

    def _end(self, sock: socket.socket) -> None:
        try:
            self.closed += sock.recv(1) == b""
        except BlockingIOError:
            pass
        except OSError:
            self.closed += 1
        sock.close()


def _send(sock: socket.socket) -> bool:
    with suppress(OSError):
        return sock.send(ONE_BYTE) == 1
    return False


def limited(kind: type[Relay], folder: Path, flags: Sequence[str]) -> Relay:
    """Return a relay that has `DESCRIPTORS` descriptors."""
    return (LimitedGo if kind is GoDerper else LimitedOurs)(folder, tls=True, flags=flags)


LIMIT: Final = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")


class LimitedGo(GoDerper):
    def command(self) -> list[str]:
        return [*LIMIT, *super().command()]


class LimitedOurs(OurDerper):
    def command(self) -> list[str]:
        return [*LIMIT, *super().command()]


@pytest.mark.parametrize(
    ("wire", "sources"),
    [
        ("TLS 1.3", ["127.0.0.1"]),
        ("TLS 1.2", [f"127.1.{n >> 8}.{n & 255}" for n in range(1, 2_001)]),
    ],
    ids=["from the clients' own address", "from 2,000 addresses"],
)
def test_one_byte_on_each_of_many_connections(beside: Beside, wire: Wire, sources: list[str]) -> None:
    def attack(target: Target) -> str:
        flood = Flood(target.relay.port, sources, CONNECTIONS)
        try:
            while flood.made < CONNECTIONS:
                flood.add(100)
                time.sleep(0.02)
            arguments = (target.relay.url, tls_version(wire), str(DISTANT_CLIENTS), str(ROUND_TRIP / 2))
            with subprocess.Popen(
                [sys.executable, str(HERE / "distant.py"), *arguments], stdout=subprocess.PIPE, text=True
            ) as clients:
                try:
                    deadline = time.monotonic() + DISTANT_SECONDS
                    while clients.poll() is None and time.monotonic() < deadline:
                        flood.add(NEW_A_SECOND // 20)
                        time.sleep(1 / 20)
                finally:
                    clients.kill()
                assert clients.stdout is not None
                logins = json.loads(clients.stdout.read() or "{}")
        finally:
            flood.close()
        if target.is_ours:
            assert logins.get("succeeded") == DISTANT_CLIENTS, f"distant clients were shut out: {logins}"
            assert flood.closed >= CONNECTIONS - DESCRIPTORS // 2, f"the attack was too small: {flood.closed} closed"
        return (
            f"{logins.get('succeeded', 0)} of {DISTANT_CLIENTS} distant clients logged in, the slowest in "
            f"{logins.get('slowest', 0):.1f} s; {flood.closed:,} of {flood.made:,} connections closed"
        )

    name = (
        f"{CONNECTIONS:,} connections of one byte each and {NEW_A_SECOND} new ones a second, {len(sources):,} address"
    )
    name += "es" if len(sources) > 1 else ""
    beside(name, attack, wire=wire, start=limited).ours.is_unharmed()
