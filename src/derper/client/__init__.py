"""A DERP client for programs in asyncio: log in at a relay, send, receive, watch (docs/client.md).

    async with DerpClient("https://derp.example.com") as client:
        await client.send(somebody, b"a packet")
        async for message in client:
            ...

Read in this order: `target` (where a relay is), `dial` (a socket to it), `tls` (whom to trust), `streams` (bytes both
ways, also as WebSocket), `connection` (one login), `bucket` (the server's limit), `client` (what programs use). Bytes
are understood by `derper.protocol`. The server imports nothing from here.

Stable, as the version number promises: the names below, and the message types in `derper.protocol.frames`.
"""

from derper.client.client import Counts, DerpClient
from derper.client.connection import Connected, Disconnected, Message, Options
from derper.client.tls import TlsInfo
from derper.protocol.derpmap import DerpMap, Node, Region
from derper.protocol.frames import Health, PeerGone, PeerPresent, Pong, RecvPacket, Restarting
from derper.protocol.keys import MeshKey, NodePrivate, NodePublic
from derper.protocol.login import ServerInfo

__all__ = [
    "Connected",
    "Counts",
    "DerpClient",
    "DerpMap",
    "Disconnected",
    "Health",
    "MeshKey",
    "Message",
    "Node",
    "NodePrivate",
    "NodePublic",
    "Options",
    "PeerGone",
    "PeerPresent",
    "Pong",
    "RecvPacket",
    "Region",
    "Restarting",
    "ServerInfo",
    "TlsInfo",
]
