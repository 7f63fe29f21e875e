"""Two clients and one packet: the smallest whole DERP program.

    python examples/first_packet.py http://127.0.0.1:3340
    python examples/first_packet.py https://127.0.0.1:3443 sha256-raw:…

Two new keys log in at a relay, one sends the other a packet, and what came is shown. A relay's self-signed certificate
is trusted by its pin alone, the `CertName` that the server logs. Only the standard library and `derper.protocol`.
"""

import asyncio
import hashlib
import hmac
import os
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from derper.errors import DerperError, NetworkError
from derper.protocol import ClientInfo, FrameReader, LoginBox, NodePrivate, NodePublic, RawFrame, ServerKey
from derper.protocol.decode import SERVER_LIMITS, decode_from_server
from derper.protocol.frames import RecvPacket, SendPacket
from derper.protocol.login import LOGIN_LIMITS, NONCE_LEN, client_info_frame, open_server_info
from derper.protocol.upgrade import UpgradeAnswer, upgrade_request

SECONDS = 10  # for everything together


@dataclass
class Client:
    """One key's connection to a relay."""

    key: NodePublic
    stream: asyncio.StreamReader
    out: asyncio.StreamWriter
    frames: FrameReader

    @classmethod
    async def connect(cls, url: str, pin: str) -> Self:
        """Connect, upgrade from HTTP to DERP, and log in with a new key."""
        where = urlsplit(url)
        tls = pinned_tls() if pin else where.scheme == "https" or None
        port = where.port or (443 if tls else 80)
        stream, out = await asyncio.open_connection(where.hostname, port, ssl=tls)
        if pin:
            check_pin(out, pin)

        out.write(upgrade_request(where.netloc))
        UpgradeAnswer.parse(await stream.readuntil(b"\r\n\r\n"))

        private = NodePrivate.from_entropy(os.urandom(32))
        client = cls(private.public(), stream, out, FrameReader(LOGIN_LIMITS))
        server = ServerKey.decode(await client.next_frame()).key
        box = LoginBox(private, server)
        out.write(client_info_frame(client.key, ClientInfo(), box, os.urandom(NONCE_LEN)))
        open_server_info(await client.next_frame(), box)
        client.frames.allow(SERVER_LIMITS)
        return client

    async def next_frame(self) -> RawFrame:
        """Wait for the next whole frame."""
        while (frame := self.frames.next_frame()) is None:
            data = await self.stream.read(65_536)
            if not data:
                raise NetworkError("the relay closed the connection")
            self.frames.feed(data)
        return frame

    async def send(self, destination: NodePublic, packet: bytes) -> None:
        """Have the relay pass a packet on to whoever has that key."""
        self.out.write(SendPacket(destination, packet).encode())
        await self.out.drain()

    async def receive(self) -> RecvPacket:
        """Wait for a packet, passing over everything else that a relay says."""
        while not isinstance(frame := decode_from_server(await self.next_frame()), RecvPacket):
            pass
        return frame

    def close(self) -> None:
        """End the connection."""
        self.out.close()


def pinned_tls() -> ssl.SSLContext:
    """TLS that takes any certificate, because `check_pin` looks at it afterwards."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def check_pin(out: asyncio.StreamWriter, pin: str) -> None:
    """Refuse a server whose certificate is not the one that the pin names."""
    certificate = out.get_extra_info("ssl_object").getpeercert(binary_form=True)
    found = f"sha256-raw:{hashlib.sha256(certificate).hexdigest()}"
    if not hmac.compare_digest(found, pin):
        out.close()
        raise NetworkError(f"the relay's certificate is {found}, not {pin}")


async def relay_one(url: str, pin: str, say: Callable[[str], object]) -> None:
    """Send one packet from a new key to another through the relay at `url`.

    Raises:
        DerperError: the relay does not speak the protocol, or hung up.
        OSError: it cannot be reached, or nothing came in time.
    """
    packet = b"the first packet"
    async with asyncio.timeout(SECONDS):
        alice, bob = await Client.connect(url, pin), await Client.connect(url, pin)
        say(f"{alice.key} and")
        say(f"{bob.key} are logged in at {url}")
        await alice.send(bob.key, packet)
        came = await bob.receive()
        if came != RecvPacket(alice.key, packet):
            raise NetworkError(f"sent {packet!r}, but {came.packet!r} came from {came.source}")
        say(f"{came.packet.decode()!r} went from {came.source.short()} to {bob.key.short()}: it arrived")
        alice.close()
        bob.close()


def main(words: list[str]) -> int:
    """Run with the words of the command line."""
    if not 1 <= len(words) <= 2:  # noqa: PLR2004  a URL and perhaps a pin
        print("usage: first_packet.py URL [PIN]", file=sys.stderr)
        return 2
    try:
        asyncio.run(relay_one(words[0], "".join(words[1:]), print))
    except (DerperError, OSError, asyncio.IncompleteReadError) as error:
        print(f"no packet came through {words[0]}: {str(error) or 'nothing happened in time'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
