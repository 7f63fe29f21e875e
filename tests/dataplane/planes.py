"""The data plane without a server: its events wait for the test, and a TLS client reports the certificate."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from derper.config import ListenAddress, Tcp
from derper.dataplane import Certificate, DataPlane, Event, PlaneSettings, Serves
from derper.protocol.keys import NodePrivate
from derper.server.listeners import listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECONDS = 20.0
REQUEST = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
LOCAL, OTHER_LOCAL = "127.0.0.1", "127.0.0.2"
E = TypeVar("E", bound=Event)


@dataclass
class Seam:
    """A data plane without a server: its events wait for the test."""

    plane: DataPlane
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    clients: list[asyncio.StreamWriter] = field(default_factory=list)

    async def next(self, kind: type[E]) -> E:
        """Return the next event, which has to be of this kind."""
        async with asyncio.timeout(SECONDS):
            event = await self.events.get()
        assert isinstance(event, kind), event
        return event

    async def connect(self, port: int, *, source: str = LOCAL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a client's connection from an address of this machine; it is closed at the end of the test."""
        stream, out = await asyncio.open_connection(LOCAL, port, local_addr=(source, 0))
        self.clients.append(out)
        return stream, out

    def listen(
        self,
        host: str | None = LOCAL,
        *,
        tls: bool = False,
        proxies: str = "",
        trusted: str = "",
        per_ip: int | None = None,
    ) -> tuple[int, int]:
        """Return a new listener and its port; `proxies` and `trusted` are one network each."""
        address = ListenAddress(None if host is None else ip_address(host), 0)
        networks, believed = ([ip_network(one)] if one else [] for one in (proxies, trusted))
        with listen(address, Tcp(keepalive_time=0, user_timeout=0, write_timeout=None)) as sock:
            listener = self.plane.listen(sock, tls=tls, proxies=networks, trusted=believed, per_ip=per_ip)
            port: int = sock.getsockname()[1]
            return listener, port


@asynccontextmanager
async def seam(*, setup_timeout: float = 30.0, max_before_login: int | None = None) -> AsyncIterator[Seam]:
    settings = PlaneSettings(
        shards=2,
        server_key=NodePrivate.from_entropy(os.urandom(32)).public(),
        setup_timeout=setup_timeout,
        max_before_login=max_before_login,
    )
    made = Seam(DataPlane(settings))
    made.plane.start(made.events.put_nowait)
    try:
        yield made
    finally:
        for out in made.clients:
            out.close()
        await asyncio.gather(*(out.wait_closed() for out in made.clients), return_exceptions=True)
        made.plane.stop()


def certificate(serves: Serves, common_name: str) -> Certificate:
    """Make a certificate that the client recognizes by its common name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Certificate(serves, (leaf.public_bytes(Encoding.DER),), der)


@dataclass(frozen=True)
class Shown:
    """The result of a TLS client's handshake."""

    certificate: str | None  # its common name; None: the handshake was rejected
    protocol: str | None
    alert: int | None
    text: str


async def shown(port: int, *words: str, host: str = LOCAL) -> Shown:
    """Return the result of openssl's client, which sends any server name and no data after the handshake."""
    done = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"{host}:{port}", *words,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(SECONDS):
        text = (await done.communicate())[0].decode(errors="replace")
    subject = re.search(r"^subject=CN ?= ?(.*)$", text, re.MULTILINE)
    protocol = re.search(r"^ALPN protocol: (.*)$", text, re.MULTILINE)
    alert = re.search(r"SSL alert number (\d+)", text)
    return Shown(subject and subject[1], protocol and protocol[1], alert and int(alert[1]), text)


NONE = ("-noservername",)
