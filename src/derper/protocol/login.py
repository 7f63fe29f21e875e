"""Login: how client and server learn who the other is.

    server  ServerKey    magic, the server's public key
    client  ClientInfo   the client's public key, and JSON in a box that only these two can make
    server  ServerInfo   JSON in a box back

One `LoginBox` serves both directions, because deriving the shared key is nearly all of a login's cost. A nonce is
handed in, 24 random bytes that are never used twice with one pair of keys. See docs/protocol/protocol.md, Login.
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
from derper.protocol.keys import KEY_LEN, MeshKey, NodePublic
from derper.protocol.reader import Limits, RawFrame, frame_bytes

MAGIC = b"DERP\xf0\x9f\x94\x91"
NONCE_LEN = 24
TAG_LEN = 16
MAX_SERVER_KEY = 1_024  # payload bytes; a server may say more after its key some day
MAX_CLIENT_INFO = 262_144  # payload bytes; the server reads no more before it trusts the client
MAX_SERVER_INFO = 1_048_576  # payload bytes, as for any frame from a server

_REMEMBERED = 256
_REMEMBERED_LEN = 256  # bytes

# For a `FrameReader` of either side; `FrameReader.allow` it more when the login is done.
LOGIN_LIMITS = Limits(
    0,
    {
        FrameType.SERVER_KEY: MAX_SERVER_KEY,
        FrameType.CLIENT_INFO: MAX_CLIENT_INFO,
        FrameType.SERVER_INFO: MAX_SERVER_INFO,
        FrameType.HEALTH: MAX_SERVER_INFO,  # comes instead when the client is refused
    },
)


@dataclass(frozen=True, slots=True)
class ServerKey:
    """Server to client, first: `8 magic | 32 server public key`; clients pass over what follows, 1,024 bytes in all."""

    TYPE: ClassVar = FrameType.SERVER_KEY

    key: NodePublic

    def encode(self) -> bytes:
        """Give the whole frame."""
        return frame_bytes(self.TYPE, MAGIC + self.key.raw)

    @classmethod
    def decode(cls, frame: RawFrame) -> Self:
        """Read the frame that must be the server's first."""
        _expect(frame, cls.TYPE, len(MAGIC) + KEY_LEN, MAX_SERVER_KEY)
        if not frame.payload.startswith(MAGIC):
            raise ProtocolError("ServerKey without the DERP magic: this is no DERP server")
        return cls(NodePublic(frame.payload[len(MAGIC) : len(MAGIC) + KEY_LEN]))


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """What a client says of itself, in JSON: `{"meshKey"?, "version", "CanAckPings", "IsProber"?, "AppName"?}`."""

    mesh_key: MeshKey | None = None
    version: int = PROTOCOL_VERSION  # not checked by anybody; 0 when absent
    can_ack_pings: bool = False
    is_prober: bool = False
    app_name: str = ""  # at most 32 bytes of printable ASCII

    def to_json(self) -> bytes:
        """Give the JSON that a client seals."""
        value: dict[str, object] = {"meshKey": self.mesh_key.to_text()} if self.mesh_key else {}
        value |= {"version": self.version, "CanAckPings": self.can_ack_pings}
        if self.is_prober:
            value["IsProber"] = True
        if self.app_name:
            value["AppName"] = self.app_name
        return gojson.compact(value)

    @staticmethod
    def from_json(data: bytes) -> ClientInfo:
        """Read the JSON out of a client's box; unknown members do not count, absent ones are zero.

        Raises:
            ProtocolError: not one JSON object, a member of the wrong type, a mesh key or application name not allowed.
        """
        return _remembered_info(data) if len(data) <= _REMEMBERED_LEN else _client_info(data)


def _client_info(data: bytes) -> ClientInfo:
    mesh_key, version, can_ack_pings, is_prober, app_name = None, 0, False, False, ""
    for name, value in gojson.members(data):
        if name == "meshkey":
            mesh_key = MeshKey.from_json(value)
        elif value is None:
            continue  # null leaves a member as it is; for a mesh key alone it is an error
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
"""Clients of one version say the same of themselves, letter by letter."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself: `{"version", "TokenBucketBytesPerSecond"?, "TokenBucketBytesBurst"?}`.

    A client that gets a rate other than 0 limits its own sending to it and drops what exceeds it.
    """

    version: int = PROTOCOL_VERSION
    token_bucket_bytes_per_second: int = 0
    token_bucket_bytes_burst: int = 0

    def to_json(self) -> bytes:
        """Give the JSON that a server seals."""
        value: dict[str, object] = {"version": self.version}
        if self.token_bucket_bytes_per_second:
            value["TokenBucketBytesPerSecond"] = self.token_bucket_bytes_per_second
        if self.token_bucket_bytes_burst:
            value["TokenBucketBytesBurst"] = self.token_bucket_bytes_burst
        return gojson.compact(value)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read the JSON out of a server's box; unknown members do not count, absent ones are zero.

        Raises:
            ProtocolError: not one JSON object, or a member that is no integer.
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
    """One side's private key: `NodePrivate`, or what computes the same faster."""

    def shared_with(self, theirs: NodePublic) -> bytes:
        """Give the 32 bytes that only these two can make."""


class LoginBox:
    """The NaCl box between one client and one server; its key is derived once, for both directions.

    Raises:
        ProtocolError: the other side's key is zero or of low order, so that a box with it would prove nothing.
    """

    __slots__ = ("_shared",)

    def __init__(self, ours: Agrees, theirs: NodePublic) -> None:
        if theirs.is_low_order:
            raise ProtocolError("a key of low order (or zero), for which anyone can make a box")
        self._shared = ours.shared_with(theirs)

    def seal(self, message: bytes, nonce: bytes) -> bytes:
        """Give `24 nonce | box`; the nonce must never have been used between these two keys."""
        return nonce + crypto_box_easy_afternm(message, nonce, self._shared)

    def open(self, sealed: bytes) -> bytes:
        """Give what is in `24 nonce | box`."""
        nonce, box = sealed[:NONCE_LEN], sealed[NONCE_LEN:]
        if len(box) < TAG_LEN:
            raise ProtocolError(f"box of {len(sealed)} bytes, wanted at least {NONCE_LEN + TAG_LEN}")
        try:
            return crypto_box_open_easy_afternm(box, nonce, self._shared)
        except CryptoError as error:
            raise ProtocolError(f"box of {len(sealed):,} bytes does not open with the keys of this login") from error


@dataclass(frozen=True, slots=True)
class ClientLogin:
    """A client as its opened ClientInfo shows it, and the box to answer it with."""

    key: NodePublic
    info: ClientInfo
    box: LoginBox

    @classmethod
    def open(cls, frame: RawFrame, server: Agrees) -> Self:
        """Server side: read the frame that must be the client's first.

        Raises:
            ProtocolError: another type, too short or too long, a key of low order, a box that does not open, bad JSON.
        """
        _expect(frame, FrameType.CLIENT_INFO, KEY_LEN + NONCE_LEN, MAX_CLIENT_INFO)
        key = NodePublic(frame.payload[:KEY_LEN])
        box = LoginBox(server, key)
        return cls(key, ClientInfo.from_json(box.open(frame.payload[KEY_LEN:])), box)


def client_info_frame(key: NodePublic, info: ClientInfo, box: LoginBox, nonce: bytes) -> bytes:
    """Client side: `32 client public key | 24 nonce | box(ClientInfo)` as a whole frame."""
    return frame_bytes(FrameType.CLIENT_INFO, key.raw + box.seal(info.to_json(), nonce))


_server_info_json = lru_cache(_REMEMBERED)(ServerInfo.to_json)
"""All clients with the same limit are told the same."""


def server_info_frame(info: ServerInfo, box: LoginBox, nonce: bytes) -> bytes:
    """Server side: `24 nonce | box(ServerInfo)` as a whole frame."""
    return frame_bytes(FrameType.SERVER_INFO, box.seal(_server_info_json(info), nonce))


def open_server_info(frame: RawFrame, box: LoginBox) -> ServerInfo:
    """Client side: read the frame that ends the login.

    Raises:
        ProtocolError: another type, too short or too long, a box that does not open, bad JSON.
    """
    _expect(frame, FrameType.SERVER_INFO, NONCE_LEN, MAX_SERVER_INFO)
    return ServerInfo.from_json(box.open(frame.payload))


def _expect(frame: RawFrame, kind: FrameType, shortest: int, longest: int) -> None:
    if frame.type != kind:
        raise ProtocolError(f"frame type {frame.type:#04x} during login, wanted {kind:#04x}")
    if not shortest <= len(frame.payload) <= longest:
        raise ProtocolError(f"{kind.name} of {len(frame.payload):,} bytes, wanted {shortest:,} to {longest:,}")
