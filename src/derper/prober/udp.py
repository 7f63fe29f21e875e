"""The UDP probe: checks that a node answers STUN over this family."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from derper.client import stun

READ_SECONDS: Final = 2.0
"""Seconds between two requests, until an answer comes or the probe's time ends."""


@dataclass(frozen=True, slots=True)
class UdpCheck:
    """One address of one node."""

    address: IPv4Address | IPv6Address
    port: int
    seconds: float  # the probe's time

    async def __call__(self) -> None:
        """Send requests until there is an answer.

        Raises:
            NetworkError: No answer in time, or the network rejected the request.
        """
        # The last attempt ends before the probe's deadline, so that the probe fails with its message.
        await stun.ask(str(self.address), self.port, self.seconds - 0.1, every=READ_SECONDS)
