"""What the bytes of DERP mean, and nothing else.

This folder is pure: it opens no socket, reads no clock and draws no random bytes. Bytes, nonces, dates and keys are
handed in; bytes, values and `ProtocolError` come out. So the server, the client, the prober and the tests share one
reading of the wire, and every rule here can be tested with nothing but data. The rules themselves stand in
`docs/protocol/`; docstrings name the section that they implement.

Read in this order, which is the order of a connection's life:

    keys      the 32-byte names of nodes, and the mesh key
    upgrade   the HTTP request that becomes a DERP stream, and its answer
    metacert  the certificate that tells a TLS 1.3 client the server's key beforehand
    reader    a byte stream cut into frames
    login     ServerKey, ClientInfo, ServerInfo: who is there, proved by a box
    gojson    JSON as the peers' parser reads it (used by login and derpmap)
    frames    every frame after login
    decode    which frame may come from whom, and how long it may be
    session   a client's half of all this, for one connection
    disco     which packets are NAT traversal and not payload

And beside connections:

    derpmap   which relays there are and how they are reached
    stun      asking a relay from where it sees us

The names below are the library for programs that speak DERP (docs/protocol-api.md); the server's own code imports from
the modules.
"""

from derper.errors import DerperError, ProtocolError
from derper.protocol.decode import (
    CLIENT_LIMITS,
    SERVER_LIMITS,
    FromClient,
    FromServer,
    decode_from_client,
    decode_from_server,
)
from derper.protocol.derpmap import DerpMap, Node, Region
from derper.protocol.disco import is_disco
from derper.protocol.frames import (
    MAX_PACKET,
    PROTOCOL_VERSION,
    ClosePeer,
    Endpoint,
    ForwardPacket,
    FrameType,
    Health,
    KeepAlive,
    NotePreferred,
    PeerFlags,
    PeerGone,
    PeerGoneReason,
    PeerPresent,
    Ping,
    Pong,
    RecvPacket,
    Restarting,
    SendPacket,
    WatchConns,
)
from derper.protocol.keys import MeshKey, NodePrivate, NodePublic
from derper.protocol.login import (
    LOGIN_LIMITS,
    ClientInfo,
    ClientLogin,
    LoginBox,
    ServerInfo,
    ServerKey,
    client_info_frame,
    open_server_info,
    server_info_frame,
)
from derper.protocol.metacert import MetaCertificate
from derper.protocol.reader import FrameReader, Limits, RawFrame
from derper.protocol.session import ClientSession, Said
from derper.protocol.upgrade import UpgradeAnswer, head_length, upgrade_request

__all__ = [
    "CLIENT_LIMITS",
    "LOGIN_LIMITS",
    "MAX_PACKET",
    "PROTOCOL_VERSION",
    "SERVER_LIMITS",
    "ClientInfo",
    "ClientLogin",
    "ClientSession",
    "ClosePeer",
    "DerpMap",
    "DerperError",
    "Endpoint",
    "ForwardPacket",
    "FrameReader",
    "FrameType",
    "FromClient",
    "FromServer",
    "Health",
    "KeepAlive",
    "Limits",
    "LoginBox",
    "MeshKey",
    "MetaCertificate",
    "Node",
    "NodePrivate",
    "NodePublic",
    "NotePreferred",
    "PeerFlags",
    "PeerGone",
    "PeerGoneReason",
    "PeerPresent",
    "Ping",
    "Pong",
    "ProtocolError",
    "RawFrame",
    "RecvPacket",
    "Region",
    "Restarting",
    "Said",
    "SendPacket",
    "ServerInfo",
    "ServerKey",
    "UpgradeAnswer",
    "WatchConns",
    "client_info_frame",
    "decode_from_client",
    "decode_from_server",
    "head_length",
    "is_disco",
    "open_server_info",
    "server_info_frame",
    "upgrade_request",
]
