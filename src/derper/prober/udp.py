"""The UDP probe: does a node answer STUN over this family?"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from derper.client import stun

READ_SECONDS: Final = 2.0
"""Between two requests, until an answer comes or the probe's time ends."""


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
        # The last try ends before the probe's time does, so that its failure is told in words.
        await stun.ask(str(self.address), self.port, self.seconds - 0.1, every=READ_SECONDS)
