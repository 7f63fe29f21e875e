"""Login: client and server prove their keys to each other.

    server  ServerKey    magic, the server's public key
    client  ClientInfo   the client's public key, and JSON in a box that only these two can make
    server  ServerInfo   JSON in a box back

One `LoginBox` serves both directions, because deriving the shared key is most of a login's cost. The caller passes the
nonce: 24 random bytes that are never used twice with one pair of keys. See docs/protocol/protocol.md, Login.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Protocol, Self

from nacl.bindings import crypto_box_easy_afternm, crypto_box_open_easy_afternm
from nacl.exceptions import CryptoError

from derper.errors import ProtocolError
from derper.protocol import gojson
from derper.protocol.frames import PROTOCOL_VERSION, FrameType, is_app_name
from derper.protocol.keys import KEY_LEN, MeshKey, NodePublic, of_type
from derper.protocol.reader import Limits, RawFrame, frame_bytes

MAGIC = b"DERP\xf0\x9f\x94\x91"
NONCE_LEN = 24
TAG_LEN = 16
MAX_SERVER_KEY = 1_024  # payload bytes; a future server may append data to its key
MAX_CLIENT_INFO = 262_144  # payload bytes; the maximum before the client has proved its key
MAX_SERVER_INFO = 1_048_576  # payload bytes, as for any frame from a server

_REMEMBERED = 256
_REMEMBERED_LEN = 256  # bytes

LOGIN_LIMITS = Limits(
    0,
    {
        FrameType.SERVER_KEY: MAX_SERVER_KEY,
        FrameType.CLIENT_INFO: MAX_CLIENT_INFO,
        FrameType.SERVER_INFO: MAX_SERVER_INFO,
        FrameType.HEALTH: MAX_SERVER_INFO,  # replaces ServerInfo if the client is rejected
    },
)
"""For a `FrameReader` of either side during login; after it, set other limits with `FrameReader.allow`."""


@dataclass(frozen=True, slots=True)
class ServerKey:
    """Server to client, first: `8 magic | 32 server public key`; clients ignore what follows, up to 1,024 bytes in all.

    Attributes:
        key: The server's public key.

    Source: docs/protocol/protocol.md, Login.
    """

    TYPE: ClassVar = FrameType.SERVER_KEY

    key: NodePublic

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, MAGIC + self.key.raw)

    @classmethod
    def decode(cls, frame: RawFrame) -> Self:
        """Parse the server's first frame.

        Args:
            frame: The frame, of any type and length.

        Raises:
            ProtocolError: Another type, the wrong length, or no DERP magic.
        """
        _expect(frame, cls.TYPE, len(MAGIC) + KEY_LEN, MAX_SERVER_KEY)
        if not frame.payload.startswith(MAGIC):
            raise ProtocolError("ServerKey without the DERP magic: this is not a DERP server")
        return cls(NodePublic(frame.payload[len(MAGIC) : len(MAGIC) + KEY_LEN]))


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """A client's announcement at login: `{"meshKey"?, "version", "CanAckPings", "IsProber"?, "AppName"?}`.

    Attributes:
        mesh_key: The region's mesh key, of a mesh peer; None: an ordinary client.
        version: The protocol version, which servers do not check; 0 when absent.
        can_ack_pings: Whether the client answers a Ping.
        is_prober: Whether the client is a prober.
        app_name: The program's name: at most 32 characters of printable ASCII.

    Source: docs/protocol/protocol.md, Login.
    """

    mesh_key: MeshKey | None = None
    version: int = PROTOCOL_VERSION
    can_ack_pings: bool = False
    is_prober: bool = False
    app_name: str = ""

    def to_json(self) -> bytes:
        """Return the JSON that a client seals."""
        value: dict[str, object] = (
            {"meshKey": of_type(MeshKey, self.mesh_key, "mesh_key").to_text()} if self.mesh_key else {}
        )
        value |= {"version": self.version, "CanAckPings": self.can_ack_pings}
        if self.is_prober:
            value["IsProber"] = True
        if self.app_name:
            value["AppName"] = self.app_name
        return gojson.compact(value)

    @staticmethod
    def from_json(data: bytes) -> ClientInfo:
        """Parse the JSON from a client's box. Unknown members are ignored; absent ones are zero.

        Args:
            data: The opened box.

        Raises:
            ProtocolError: Not one JSON object, a member of the wrong type, an invalid mesh key or application name.
        """
        return _remembered_info(data) if len(data) <= _REMEMBERED_LEN else _client_info(data)


def _client_info(data: bytes) -> ClientInfo:
    mesh_key, version, can_ack_pings, is_prober, app_name = None, 0, False, False, ""
    for name, value in gojson.members(data):
        if name == "meshkey":
            mesh_key = MeshKey.from_json(value)
        elif value is None:
            continue  # null leaves a member unchanged; only for a mesh key it is an error
        elif name == "version":
            version = gojson.integer(value, "version")
        elif name == "canackpings":
            can_ack_pings = gojson.boolean(value, "CanAckPings")
        elif name == "isprober":
            is_prober = gojson.boolean(value, "IsProber")
        elif name == "appname":
            app_name = gojson.text(value, "AppName")
    if not is_app_name(app_name):
        raise ProtocolError("AppName: wanted at most 32 bytes of printable ASCII")
    return ClientInfo(mesh_key, version, can_ack_pings, is_prober, app_name)


_remembered_info = lru_cache(_REMEMBERED)(_client_info)
"""Clients of one version send identical JSON."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server's announcement at login: `{"version", "TokenBucketBytesPerSecond"?, "TokenBucketBytesBurst"?}`.

    If the rate is not 0, a client limits its own sending to it and drops packets that exceed it.

    Attributes:
        version: The protocol version, which clients do not check; 0 when absent.
        token_bucket_bytes_per_second: The rate limit, bytes a second; 0: none.
        token_bucket_bytes_burst: The rate limit's burst, bytes.

    Source: docs/protocol/protocol.md, Login.
    """

    version: int = PROTOCOL_VERSION
    token_bucket_bytes_per_second: int = 0
    token_bucket_bytes_burst: int = 0

    def to_json(self) -> bytes:
        """Return the JSON that a server seals."""
        value: dict[str, object] = {"version": self.version}
        if self.token_bucket_bytes_per_second:
            value["TokenBucketBytesPerSecond"] = self.token_bucket_bytes_per_second
        if self.token_bucket_bytes_burst:
            value["TokenBucketBytesBurst"] = self.token_bucket_bytes_burst
        return gojson.compact(value)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse the JSON from a server's box. Unknown members are ignored; absent ones are zero.

        Args:
            data: The opened box.

        Raises:
            ProtocolError: Not one JSON object, or a member that is not an integer.
        """
        info = cls(version=0)
        for name, value in gojson.members(data):
            if value is None:
                continue
            if name == "version":
                info = replace(info, version=gojson.integer(value, "version"))
            elif name == "tokenbucketbytespersecond":
                rate = gojson.integer(value, "TokenBucketBytesPerSecond")
                info = replace(info, token_bucket_bytes_per_second=rate)
            elif name == "tokenbucketbytesburst":
                burst = gojson.integer(value, "TokenBucketBytesBurst")
                info = replace(info, token_bucket_bytes_burst=burst)
        return info


class Agrees(Protocol):
    """One side's private key: a `NodePrivate`, or a faster equivalent."""

    def shared_with(self, theirs: NodePublic) -> bytes:
        """Return the 32 bytes of the shared key for boxes with `theirs`."""


class LoginBox:
    """The NaCl box between one client and one server. Its key is derived once, for both directions.

    Args:
        ours: This side's private key: a `NodePrivate`, or an object whose `shared_with` returns the same.
        theirs: The other side's public key.

    Raises:
        ProtocolError: The other side's key is zero or of low order, so a box with it would prove nothing.

    Source: docs/protocol/protocol.md, Login.
    """

    __slots__ = ("_shared",)

    def __init__(self, ours: Agrees, theirs: NodePublic) -> None:
        if theirs.is_low_order:
            raise ProtocolError("a key of low order (or zero), for which anyone can make a box")
        self._shared = ours.shared_with(theirs)

    def seal(self, message: bytes, nonce: bytes) -> bytes:
        """Seal a message.

        Args:
            message: The plaintext, of any length.
            nonce: 24 random bytes that were never used with these two keys.

        Returns:
            `24 nonce | box`; the box is 16 bytes longer than the message.
        """
        return nonce + crypto_box_easy_afternm(message, nonce, self._shared)

    def open(self, sealed: bytes) -> bytes:
        """Open a sealed message.

        Args:
            sealed: `24 nonce | box`.

        Returns:
            The plaintext.

        Raises:
            ProtocolError: Too short, or the box does not open with these keys.
        """
        nonce, box = sealed[:NONCE_LEN], sealed[NONCE_LEN:]
        if len(box) < TAG_LEN:
            raise ProtocolError(f"box of {len(sealed)} bytes, wanted at least {NONCE_LEN + TAG_LEN}")
        try:
            return crypto_box_open_easy_afternm(box, nonce, self._shared)
        except CryptoError as error:
            raise ProtocolError(f"box of {len(sealed):,} bytes does not open with the keys of this login") from error


@dataclass(frozen=True, slots=True)
class ClientLogin:
    """A client's login as the server sees it.

    Attributes:
        key: The client's public key.
        info: The client's announcement.
        box: The box for the answer.

    Source: docs/protocol/protocol.md, Login.
    """

    key: NodePublic
    info: ClientInfo
    box: LoginBox

    @classmethod
    def open(cls, frame: RawFrame, server: Agrees) -> Self:
        """Parse the client's first frame and open its box, on the server's side.

        Args:
            frame: The frame, of any type and length.
            server: The server's private key.

        Raises:
            ProtocolError: Another type, the wrong length, a key of low order, a box that does not open, bad JSON.
        """
        _expect(frame, FrameType.CLIENT_INFO, KEY_LEN + NONCE_LEN, MAX_CLIENT_INFO)
        key = NodePublic(frame.payload[:KEY_LEN])
        box = LoginBox(server, key)
        return cls(key, ClientInfo.from_json(box.open(frame.payload[KEY_LEN:])), box)


def client_info_frame(key: NodePublic, info: ClientInfo, box: LoginBox, nonce: bytes) -> bytes:
    """Return the client's login frame: `32 client public key | 24 nonce | box(ClientInfo)`.

    Args:
        key: The client's public key.
        info: The client's announcement.
        box: The box between the client and the server.
        nonce: 24 random bytes that were never used with these two keys.

    Source: docs/protocol/protocol.md, Login.
    """
    return frame_bytes(FrameType.CLIENT_INFO, key.raw + box.seal(info.to_json(), nonce))


_server_info_json = lru_cache(_REMEMBERED)(ServerInfo.to_json)
"""All clients with the same limit get identical JSON."""


def server_info_frame(info: ServerInfo, box: LoginBox, nonce: bytes) -> bytes:
    """Return the server's answer to a login: `24 nonce | box(ServerInfo)`.

    Args:
        info: The server's announcement.
        box: The box between the client and the server.
        nonce: 24 random bytes that were never used with these two keys.

    Source: docs/protocol/protocol.md, Login.
    """
    return frame_bytes(FrameType.SERVER_INFO, box.seal(_server_info_json(info), nonce))


def open_server_info(frame: RawFrame, box: LoginBox) -> ServerInfo:
    """Parse the server's answer to a login and open its box, on the client's side.

    Args:
        frame: The frame, of any type and length.
        box: The box between the client and the server.

    Raises:
        ProtocolError: Another type, the wrong length, a box that does not open, bad JSON.

    Source: docs/protocol/protocol.md, Login.
    """
    _expect(frame, FrameType.SERVER_INFO, NONCE_LEN, MAX_SERVER_INFO)
    return ServerInfo.from_json(box.open(frame.payload))


def _expect(frame: RawFrame, kind: FrameType, shortest: int, longest: int) -> None:
    if frame.type != kind:
        raise ProtocolError(f"frame type {frame.type:#04x} during login, wanted {kind:#04x}")
    if not shortest <= len(frame.payload) <= longest:
        raise ProtocolError(f"{kind.name} of {len(frame.payload):,} bytes, wanted {shortest:,} to {longest:,}")
