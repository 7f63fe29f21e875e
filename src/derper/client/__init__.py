"""A DERP client for asyncio programs: log in at a relay, send, receive, watch (docs/client.md, docs/client-api.md).

    async with DerpClient("https://derp.example.com") as client:
        await client.send(peer, b"a packet")
        async for message in client:
            ...

Read in this order: `target` (a relay's address), `dial` (a socket to it), `tls` (the certificates to trust), `streams`
(bytes in both directions, also as WebSocket), `connection` (one login), `bucket` (the server's rate limit), `client`
(the class for programs). `derper.protocol` parses the bytes. The server imports nothing from here.

The names below are stable, as the version number promises (docs/client.md, Stability).
"""

from derper.client.client import Counts, DerpClient
from derper.client.connection import Connected, Disconnected, Message, Options
from derper.client.target import Target
from derper.client.tls import TlsInfo
from derper.errors import ConfigError, DerperError, NetworkError, ProtocolError
from derper.protocol.derpmap import DerpMap, Node, Region
from derper.protocol.frames import (
    Endpoint,
    Health,
    PeerFlags,
    PeerGone,
    PeerGoneReason,
    PeerPresent,
    Pong,
    RecvPacket,
    Restarting,
)
from derper.protocol.keys import MeshKey, NodePrivate, NodePublic
from derper.protocol.login import ServerInfo
from derper.protocol.metacert import MetaCertificate

__all__ = [
    "ConfigError",
    "Connected",
    "Counts",
    "DerpClient",
    "DerpMap",
    "DerperError",
    "Disconnected",
    "Endpoint",
    "Health",
    "MeshKey",
    "Message",
    "MetaCertificate",
    "NetworkError",
    "Node",
    "NodePrivate",
    "NodePublic",
    "Options",
    "PeerFlags",
    "PeerGone",
    "PeerGoneReason",
    "PeerPresent",
    "Pong",
    "ProtocolError",
    "RecvPacket",
    "Region",
    "Restarting",
    "ServerInfo",
    "Target",
    "TlsInfo",
]
