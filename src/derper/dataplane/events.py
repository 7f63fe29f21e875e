"""Events of the data plane: one tuple type per event, with its fields in the extension's order.

After `Head`, `HeadTooLarge`, `Frame` and the last `Data` of a body, the connection is parked: nothing more is read
until a command chooses what to read next. If the peer ends its sending side meanwhile, the connection stays open for
five seconds, because the peer may still read. Then `Closed` follows, even if bytes were requested and not yet read.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from derper.dataplane.close_reason import close_reason
from derper.dataplane.extension import native
from derper.protocol.frames import PeerPresent
from derper.protocol.reader import HEADER_LEN

Conn: TypeAlias = int
"""Identifies a connection. Never reused, so a late command for a closed connection has no effect."""


class Remote(NamedTuple):
    """The other end of a connection; from the PROXY header, if a proxy in front of us sent one."""

    ip: str  # IPv4-mapped addresses as IPv4
    port: int
    is_anonymous: bool = False  # the address of a proxy that did not name its client; set in `Head` only


class Local(NamedTuple):
    """Our end of a connection; from the PROXY header, if a proxy in front of us sent one."""

    ip: str  # IPv4-mapped addresses as IPv4
    port: int


class Totals(NamedTuple):
    """The traffic of a switched connection, in packets and in payload bytes without keys and headers."""

    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int


class Head(NamedTuple):
    """A complete HTTP request head, including its blank line."""

    conn: Conn
    head: bytes
    ahead: bytes  # the bytes after the head, at most 1 KiB; they stay buffered until `DataPlane.skip`
    remote: Remote
    local: Local
    listener: int  # the result of `DataPlane.listen`; 0 for a node that we dialled
    tls: str | None  # "1.2", "1.3", None without TLS


class HeadTooLarge(NamedTuple):
    """A request head exceeded the maximum."""

    conn: Conn
    remote: Remote
    listener: int


class Frame(NamedTuple):
    """The frame that `await_frame` requested."""

    conn: Conn
    type: int
    payload: bytes


class Data(NamedTuple):
    """A part of the body that `await_body` requested, or of the stream that `stream` requested."""

    conn: Conn
    data: bytes


class Drained(NamedTuple):
    """All written bytes were sent; one event for each `write` with `tell_drained`."""

    conn: Conn


class Dialled(NamedTuple):
    """A dialled socket was taken over, and its TLS handshake began; `conn` is 0 if it could not be."""

    conn: Conn
    token: int  # from `dial`


class Connected(NamedTuple):
    """The TLS handshake with a dialled node is complete; the connection is parked."""

    conn: Conn
    chain: list[bytes]  # DER, leaf first


class Linked(NamedTuple):
    """A dialled node has announced its first key after `link`: it accepted us as a mesh peer."""

    conn: Conn


class Switched(NamedTuple):
    """The connection was switched; it relays from now on."""

    conn: Conn
    member: Conn


class Closed(NamedTuple):
    """The connection was closed."""

    conn: Conn
    remote: Remote
    key: bytes | None  # the client's, if it was switched
    code: str  # one of a small set of codes
    detail: str  # the end of the message, or ""
    totals: Totals


class MemberSnapshot(NamedTuple):
    """The state of one switched connection, from `DataPlane.members`."""

    conn: Conn
    presence: bytes  # a complete PeerPresent frame: key, address, flags and app name
    is_mesh_peer: bool
    version: int  # of the protocol, from its login
    number: int  # from `switch`
    age: float  # seconds since its login
    is_active: bool  # it gets the packets of its key
    is_duplicate: bool  # its key has other connections
    is_home: bool  # its client's home is this node
    tls: str | None  # "1.2", "1.3", None without TLS
    is_websocket: bool
    totals: Totals
    received: int  # bytes over the TCP connection since its start, including TLS and HTTP
    sent: int
    senders: int  # estimated number of keys that have sent to its key; 0 if not counted

    def peer_present(self) -> PeerPresent:
        """Return the key, address, flags and app name."""
        return PeerPresent.from_payload(self.presence[HEADER_LEN:])


class ClientImpaired(NamedTuple):
    """A connection was impaired for at least half of the last ten seconds; sent at most once a minute per key.

    Each such event is followed by one with `is_over`, at the latest before `Closed`.
    """

    conn: Conn
    key: bytes
    how: str  # "limited": by a rate limit; "fighting": it and another connection take each other's packets
    is_over: bool


class Dropped(NamedTuple):
    """A packet to one of the destinations in `PlaneSettings.verbose_drops` was dropped."""

    to: bytes
    reason: str
    bytes: int


class AcceptFailed(NamedTuple):
    """The system had no descriptor or memory for a new connection; retried after a second."""

    shard: int
    error: str


class StunFailed(NamedTuple):
    """STUN requests could not be read; sent at most once a minute, and reading continues."""

    error: str


class Unserved(NamedTuple):
    """A TLS client was rejected because no certificate matches; sent at most once a second per client name."""

    name: str | None  # in lower case; None: it sent no name, or `local`
    local: str  # the address that it reached


Notice: TypeAlias = Dropped | AcceptFailed | StunFailed | Unserved
"""An event that is not about one connection."""

Event: TypeAlias = (
    Head | HeadTooLarge | Frame | Data | Drained | Dialled | Connected | Linked | Switched | ClientImpaired | Closed
    | Notice
)  # fmt: skip

_MAKE: Final[dict[int, Callable[..., Event]]] = {
    native.HEAD: lambda conn, came, remote, local, listener, tls: Head(
        conn, came[0], came[1], Remote(*remote), Local(*local), listener, tls
    ),
    native.HEAD_TOO_LARGE: lambda conn, remote, listener: HeadTooLarge(conn, Remote(*remote), listener),
    native.FRAME: Frame,
    native.DATA: Data,
    native.DRAINED: Drained,
    native.DIALLED: Dialled,
    native.CONNECTED: Connected,
    native.LINKED: Linked,
    native.SWITCHED: Switched,
    native.CLOSED: lambda conn, remote, key, code, detail, totals: Closed(
        conn, Remote(*remote), key, close_reason(code), detail, Totals(*totals)
    ),
    native.CLIENT_IMPAIRED: ClientImpaired,
    native.DROPPED: Dropped,
    native.ACCEPT_FAILED: AcceptFailed,
    native.STUN_FAILED: StunFailed,
    native.UNSERVED: Unserved,
}


def event_from(raw: tuple[object, ...]) -> Event:
    """Return the event of the extension's tuple, whose first item is the kind."""
    kind, *fields = raw
    assert isinstance(kind, int)  # noqa: S101  the extension's kinds are known
    return _MAKE[kind](*fields)


RawMemberSnapshot: TypeAlias = tuple[
    Conn,
    tuple[bytes, bool, int, int],
    tuple[int, bool, bool, bool],
    tuple[str | None, bool],
    tuple[int, int, int, int],
    tuple[int, int],
    int,
]
"""The extension's tuple of a member."""


def member_snapshot_from(raw: RawMemberSnapshot) -> MemberSnapshot:
    """Return the member of the extension's tuple."""
    conn, who, (age_ms, is_active, is_duplicate, is_home), over, totals, wire, senders = raw
    return MemberSnapshot(
        conn, *who, age_ms / 1000, is_active, is_duplicate, is_home, *over, Totals(*totals), *wire, senders
    )  # fmt: skip
