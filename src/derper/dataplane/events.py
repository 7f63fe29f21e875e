"""What the data plane tells: one tuple type an event, with its fields in the extension's order.

After `Head`, `HeadTooLarge` and `Frame`, and after the last `Data` of a body, the connection is parked: nothing more is
read from it until a command says what it should collect next. A peer that ends its sending side meanwhile is served for
five seconds more, as it may read on; then comes `Closed`, whatever was asked for and not read.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from derper.dataplane.extension import native
from derper.protocol.frames import PeerPresent
from derper.protocol.reader import HEADER_LEN

Conn: TypeAlias = int
"""Names one connection. Never handed out twice, so a late command for one that is gone does nothing."""


class Remote(NamedTuple):
    """The other end of a connection, as a proxy in front of us says it, if one does."""

    ip: str  # IPv4-mapped addresses as IPv4
    port: int
    is_anonymous: bool = False  # a proxy's own address, which did not say for whom it is; known from `Head` alone


class Local(NamedTuple):
    """Our end of a connection, as a proxy in front of us says it, if one does."""

    ip: str  # IPv4-mapped addresses as IPv4
    port: int


class Totals(NamedTuple):
    """What a switched connection carried; bytes are packet bytes, without keys and headers."""

    packets_in: int
    bytes_in: int
    packets_out: int
    bytes_out: int


class Head(NamedTuple):
    """One whole HTTP request head, its blank line included."""

    conn: Conn
    head: bytes
    ahead: bytes  # what came right behind it, at most 1 KiB of that; it stays there until `DataPlane.skip`
    remote: Remote
    local: Local
    listener: int  # what `DataPlane.listen` gave; 0 for a node that we dialled
    tls: str | None  # "1.2", "1.3", None without TLS


class HeadTooLarge(NamedTuple):
    """More came than a request head may have."""

    conn: Conn
    remote: Remote
    listener: int


class Frame(NamedTuple):
    """The frame that `await_frame` asked for."""

    conn: Conn
    type: int
    payload: bytes


class Data(NamedTuple):
    """A part of the body that `await_body` asked for, or of what `stream` did."""

    conn: Conn
    data: bytes


class Drained(NamedTuple):
    """All that was written has left; said once for each `write` that asked."""

    conn: Conn


class Dialled(NamedTuple):
    """A socket was taken over, and TLS with the node at its other end goes on; `conn` is 0 if it could not be."""

    conn: Conn
    token: int  # what `dial` was given


class Connected(NamedTuple):
    """The TLS handshake with a dialled node is done; the connection is parked."""

    conn: Conn
    chain: list[bytes]  # DER, leaf first


class Linked(NamedTuple):
    """A dialled node has announced its first key after `link`: it takes us for a node of its region."""

    conn: Conn


class Switched(NamedTuple):
    """The connection relays from now on, under the name `member`."""

    conn: Conn
    member: Conn


class Closed(NamedTuple):
    """The connection is gone."""

    conn: Conn
    remote: Remote
    key: bytes | None  # the client's, if it was switched
    code: str  # one of a small set of words
    detail: str  # the rest of the sentence, or ""
    totals: Totals


class MemberSnapshot(NamedTuple):
    """How one switched connection stands: what `DataPlane.members` tells of it."""

    conn: Conn
    presence: bytes  # a whole PeerPresent frame: its key, address, flags and app name
    is_mesh_peer: bool
    version: int  # of the protocol, as its login said
    number: int  # as `switch` was told
    age: float  # seconds since its login
    is_active: bool  # it gets its key's packets
    is_duplicate: bool  # its key has other connections, too
    is_home: bool  # it said that this node is its home
    tls: str | None  # "1.2", "1.3", None without TLS
    is_websocket: bool
    totals: Totals
    received: int  # bytes over the TCP connection since its start, TLS and HTTP included
    sent: int
    senders: int  # about how many keys have sent to its key; 0 where that is not counted

    def who(self) -> PeerPresent:
        """Return its key, address, flags and app name."""
        return PeerPresent.from_payload(self.presence[HEADER_LEN:])


class ClientImpaired(NamedTuple):
    """A connection has had a hard time for half of the last ten seconds or more; said of a key once a minute at most.

    `is_over` is said once for each that was said to struggle, at the latest before it is `Closed`.
    """

    conn: Conn
    key: bytes
    how: str  # "limited": a rate limit holds it back; "fighting": it takes its key's packets from another connection
    is_over: bool


class Dropped(NamedTuple):
    """A packet to one of the destinations in `PlaneSettings.verbose_drops` was dropped."""

    to: bytes
    reason: str
    bytes: int


class AcceptFailed(NamedTuple):
    """The system had no descriptor or memory for a new connection; it is tried again in a second."""

    shard: int
    error: str


class StunFailed(NamedTuple):
    """STUN requests could not be read; said at most once a minute, and they are read on."""

    error: str


class Unserved(NamedTuple):
    """A TLS client was refused because no certificate is for it; of the same one it is said at most once a second."""

    name: str | None  # in lower case; None: it asked for no name, or for `local`
    local: str  # where it reached us


Notice: TypeAlias = Dropped | AcceptFailed | StunFailed | Unserved
"""An event of no one connection."""

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
        conn, Remote(*remote), key, code, detail, Totals(*totals)
    ),
    native.CLIENT_IMPAIRED: ClientImpaired,
    native.DROPPED: Dropped,
    native.ACCEPT_FAILED: AcceptFailed,
    native.STUN_FAILED: StunFailed,
    native.UNSERVED: Unserved,
}


def event_from(raw: tuple[object, ...]) -> Event:
    """Turn the extension's tuple, whose first item is the kind, into its event."""
    kind, *fields = raw
    assert isinstance(kind, int)  # noqa: S101  the extension's word
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
"""A member as the extension gives it."""


def member_snapshot_from(raw: RawMemberSnapshot) -> MemberSnapshot:
    """Turn the extension's tuple into a member."""
    conn, who, (age_ms, is_active, is_duplicate, is_home), over, totals, wire, senders = raw
    return MemberSnapshot(
        conn, *who, age_ms / 1000, is_active, is_duplicate, is_home, *over, Totals(*totals), *wire, senders
    )  # fmt: skip
