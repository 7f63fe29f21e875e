"""STUN for clients: asks a relay for our address as it sees it (docs/protocol/stun.md)."""

import asyncio
import os

from derper.errors import NetworkError, ProtocolError
from derper.protocol import stun
from derper.protocol.frames import Endpoint


async def ask(address: str, port: int, seconds: float, *, every: float) -> Endpoint:
    """Send requests until there is an answer, because datagrams may be lost; return the address in it.

    Args:
        address: The relay's IP address.
        port: Its UDP port.
        seconds: The deadline.
        every: Seconds between two requests, each with its own transaction ID.

    Raises:
        NetworkError: No answer in time, or the network rejected the request.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    tries = 0
    try:
        transport, asking = await loop.create_datagram_endpoint(_Request, remote_addr=(address, port))
    except OSError as error:
        raise NetworkError(f"cannot send to {address}: {error.strerror or error}") from error
    try:
        while (left := end - loop.time()) > 0:
            tries += 1
            if (seen := await asking.ask(transport, min(left, every))) is not None:
                return seen
    finally:
        transport.close()
    raise NetworkError(f"timeout reading from {address}: {asking.trouble or 'no answer came'} ({tries} sent)")


class _Request(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.trouble = ""
        self._tx_id = b""
        self._seen: Endpoint | None = None
        self._answered = asyncio.Event()

    async def ask(self, transport: asyncio.DatagramTransport, seconds: float) -> Endpoint | None:
        self._tx_id = os.urandom(stun.TX_ID_LEN)
        transport.sendto(stun.request(self._tx_id))
        try:
            async with asyncio.timeout(seconds):
                await self._answered.wait()
        except TimeoutError:
            return None
        return self._seen

    def datagram_received(self, data: bytes, _address: object) -> None:
        try:
            answer = stun.Response.parse(data)
        except ProtocolError as error:
            self.trouble = str(error)
            return
        if answer.tx_id == self._tx_id:
            self._seen = answer.seen
            self._answered.set()
        else:
            self.trouble = "an answer with another transaction ID came"

    def error_received(self, error: Exception) -> None:
        self.trouble = getattr(error, "strerror", None) or str(error)
