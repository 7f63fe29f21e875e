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

The names below are for programs that speak DERP; the server's own code imports from the modules.
"""

from derper.protocol.decode import decode_from_client, decode_from_server
from derper.protocol.disco import is_disco
from derper.protocol.frames import FrameType
from derper.protocol.keys import MeshKey, NodePrivate, NodePublic
from derper.protocol.login import ClientInfo, LoginBox, ServerInfo, ServerKey
from derper.protocol.reader import FrameReader, RawFrame

__all__ = [
    "ClientInfo",
    "FrameReader",
    "FrameType",
    "LoginBox",
    "MeshKey",
    "NodePrivate",
    "NodePublic",
    "RawFrame",
    "ServerInfo",
    "ServerKey",
    "decode_from_client",
    "decode_from_server",
    "is_disco",
]
