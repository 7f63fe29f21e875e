"""Two clients and one packet: the smallest complete DERP program.

    python examples/first_packet.py http://127.0.0.1:3340
    python examples/first_packet.py https://127.0.0.1:3443 sha256-raw:…

Two new keys log in at a relay, one sends the other a packet, and the received packet is printed. A relay's self-signed
certificate is trusted by its pin alone, the `CertName` that the server logs.
"""

import asyncio
import sys
from collections.abc import Callable

from derper.client import DerpClient, DerperError, NetworkError, Options, RecvPacket

SECONDS = 10  # for all steps together


async def relay_one(url: str, pin: str, show: Callable[[str], object]) -> None:
    """Send one packet from a new key to another through the relay at `url`.

    Raises:
        DerperError: The relay is unreachable, does not speak the protocol, or closed the connection.
        TimeoutError: The packet did not arrive in time.
    """
    packet, options = b"the first packet", Options(cert_name=pin)
    async with (
        asyncio.timeout(SECONDS),
        DerpClient(url, options=options) as alice,
        DerpClient(url, options=options) as bob,
    ):
        show(f"{alice.key} and")
        show(f"{bob.key} are logged in at {url}")
        await alice.send(bob.key, packet)
        came = await bob.packet()
        if came != RecvPacket(alice.key, packet):
            raise NetworkError(f"sent {packet!r}, but {came.packet!r} came from {came.source}")
        show(f"{came.packet.decode()!r} went from {came.source.short()} to {bob.key.short()}: it arrived")


def main(words: list[str]) -> int:
    """Run with the arguments of the command line."""
    if not 1 <= len(words) <= 2:  # noqa: PLR2004  a URL and perhaps a pin
        print("usage: first_packet.py URL [PIN]", file=sys.stderr)
        return 2
    try:
        asyncio.run(relay_one(words[0], "".join(words[1:]), print))
    except (DerperError, TimeoutError) as error:
        print(f"no packet came through {words[0]}: {str(error) or 'nothing happened in time'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
