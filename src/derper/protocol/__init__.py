"""The meaning of DERP's bytes, without I/O.

This folder is pure: it opens no socket, reads no clock and draws no random bytes. The caller passes bytes, nonces,
dates and keys; functions return bytes and values or raise `ProtocolError`. So the server, the client, the prober and
the tests share one implementation, and every rule can be tested with data alone. The rules are in `docs/protocol/`;
docstrings name the section that they implement.

Read in this order, which is the order of a connection's life:

    keys      the 32-byte names of nodes, and the mesh key
    upgrade   the HTTP request that becomes a DERP stream, and its answer
    metacert  the certificate with the server's key for a TLS 1.3 client
    reader    splits a byte stream into frames
    login     ServerKey, ClientInfo, ServerInfo: identities, proved by a box
    gojson    JSON as the peers' parser reads it (used by login and derpmap)
    frames    every frame after login
    decode    allowed senders and lengths of frames
    session   a client's side of one connection
    disco     distinguishes NAT-traversal packets from payload

Independent of connections:

    derpmap   the relays and their addresses
    stun      a request for the address that a relay sees

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
