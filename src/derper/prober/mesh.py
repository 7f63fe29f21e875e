"""The mesh probe: checks that a packet gets from one node to another, or through one node.

Two new clients log in, one on each node. Eight random bytes from one client must reach the other, from the right key.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Final, NoReturn

from derper.client import Connected
from derper.errors import NetworkError
from derper.prober.clients import Clients, Pair
from derper.prober.together import first
from derper.protocol.derpmap import Node

INTRODUCTION_SECONDS: Final = 0.1
"""Seconds for one node to announce a new client to the other."""

_PACKET_LEN: Final = 8


@dataclass(frozen=True, slots=True)
class MeshCheck:
    """A packet from one node to another, or to itself."""

    name: str
    nodes: tuple[Node, Node]
    clients: Clients

    async def __call__(self) -> None:
        """Send a packet and wait for it.

        Raises:
            NetworkError: It does not arrive, another one arrives, or a login's TLS is not as expected.
            ProtocolError: A relay does not speak DERP.
        """
        async with self.clients.pair(self.name, self.nodes, is_prober=True) as pair:
            for node, connected in zip(self.nodes, (pair.sender_connected, pair.receiver_connected), strict=True):
                _check_tls(node, connected)
            if self.nodes[0] != self.nodes[1]:
                await asyncio.sleep(INTRODUCTION_SECONDS)
            packet = os.urandom(_PACKET_LEN)
            await pair.sender.send(pair.receiver.key, packet)
            came = await first(pair.receiver.packet(), listen(pair))
            if came.source != pair.sender.key:
                raise NetworkError(f"got a packet from {came.source}; want one from {pair.sender.key}")
            if came.packet != packet:
                raise NetworkError(f"got a packet of {len(came.packet):,} bytes that was not sent")


def _check_tls(node: Node, connected: Connected) -> None:
    if connected.tls is None:
        raise NetworkError(f"no TLS with {node.host_name}")
    # If the node is an IP address, the handshake has no server name.
    name = connected.tls.server_name
    if name and name != node.host_name:
        raise NetworkError(f'TLS server name "{name}" != derp hostname "{node.host_name}"')


async def listen(pair: Pair) -> NoReturn:
    """Read and discard the messages of the sender's relay; raises `DerperError` when its connection ends."""
    while True:
        await pair.sender.receive()
