"""The UDP probe: does a node answer STUN over this family?

A request every two seconds until an answer with its transaction ID comes or the probe's time ends.
"""

import asyncio
import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from derper import log
from derper.errors import NetworkError, ProtocolError
from derper.protocol import stun

READ_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class UdpCheck:
    """One address of one node."""

    address: IPv4Address | IPv6Address
    port: int
    seconds: float  # the probe's time

    async def __call__(self) -> None:
        """Ask until there is an answer.

        Raises:
            NetworkError: there was none in time, or the network refuses.
        """
        loop = asyncio.get_running_loop()
        # The last try ends before the probe's time does, so that its failure is told in words.
        end = loop.time() + self.seconds - 0.1
        tries = 0
        transport, asking = await loop.create_datagram_endpoint(_Asking, remote_addr=(str(self.address), self.port))
        try:
            while (left := end - loop.time()) > 0:
                tries += 1
                if await asking.ask(transport, min(left, READ_SECONDS)):
                    return
        finally:
            transport.close()
        reason = asking.trouble or "no answer came"
        raise NetworkError(f"timeout reading from {self.address}: {reason} ({tries} sent)")


class _Asking(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.trouble = ""
        self._tx_id = b""
        self._answered = asyncio.Event()

    async def ask(self, transport: asyncio.DatagramTransport, seconds: float) -> bool:
        self._tx_id = os.urandom(stun.TX_ID_LEN)
        transport.sendto(stun.request(self._tx_id))
        try:
            async with asyncio.timeout(seconds):
                await self._answered.wait()
        except TimeoutError:
            return False
        return True

    def datagram_received(self, data: bytes, _address: object) -> None:
        try:
            answer = stun.Response.parse(data)
        except ProtocolError as error:
            self.trouble = str(error)
            return
        if answer.tx_id == self._tx_id:
            self._answered.set()
        else:
            self.trouble = "an answer with another transaction ID came"

    def error_received(self, error: Exception) -> None:
        self.trouble = log.in_one_line(error)
