"""The switchboard as specified in docs/protocol/relay.md and mesh.md, in the simplest form.

It is the reference for the real one: the same history has to give the same frames to all connections and the same
counters. Events happen one at a time and completely; a socket takes all bytes or, while its party is stalled, none. No
optimisation belongs here.
"""

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, TypeAlias

Key: TypeAlias = bytes

SEND, RECV, KEEP_ALIVE, PREFERRED, PEER_GONE, PEER_PRESENT, FORWARD = 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A
WATCH, CLOSE_PEER, PING, PONG, HEALTH = 0x10, 0x11, 0x12, 0x13, 0x14
DISCONNECTED, NOT_HERE = b"\0", b"\1"
NOBODY: Key = bytes(32)
STRAIGHT = -1


class LoginKind(IntEnum):
    """The kind of peer of a connection."""

    CLIENT = 0
    MESH_PEER = 1
    NODE = 2  # a node that we dialled


class Frame(NamedTuple):
    """A frame in either direction."""

    type: int
    payload: bytes = b""

    def __bytes__(self) -> bytes:
        return struct.pack(">BI", self.type, len(self.payload)) + self.payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The sizes and times that are settings; times in milliseconds."""

    queue_depth: int
    write_timeout: dict[LoginKind, int]
    keep_alive: int
    server_key: Key
    grain: int = 128  # deadlines are checked when the clock is a multiple of this


def is_disco(packet: bytes) -> bool:
    return len(packet) >= 62 and packet.startswith(b"TS\xf0\x9f\x92\xac")


def presence(key: Key) -> Frame:
    """Return the announcement of a key; the login decides the other fields."""
    return Frame(PEER_PRESENT, key)


@dataclass(eq=False, slots=True, kw_only=True)
class Connection:
    """One connection and all bytes written to it."""

    key: Key
    guest: LoginKind
    since: int
    keep_alive_at: int
    party: int = -1  # the test's number for it
    is_open: bool = True
    stalled: bool = False
    blocked_at: int | None = None  # time since which frames wait for the socket
    control: list[Frame] = field(default_factory=list)
    disco: list[Frame] = field(default_factory=list)
    other: list[Frame] = field(default_factory=list)
    written: list[Frame] = field(default_factory=list)
    # The keys whose packets it got: it is notified when they leave. The values are the paths: through a mesh peer's
    # party, direct, or direct in an earlier connection.
    heard: dict[Key, set[int]] = field(default_factory=dict)
    not_here_credit: float = 3.0
    not_here_at: int = 0
    home: bool = False
    watches: bool = False
    announced: dict[Key, None] = field(default_factory=dict)  # by a node

    def tag(self) -> str:
        return f"{self.guest.name.lower()} {self.party} of {self.key[:1].hex()}"

    def queue(self, *, disco: bool) -> list[Frame]:
        return self.disco if disco else self.other


def packet_in(frame: Frame) -> bytes:
    return frame.payload[64 if frame.type == FORWARD else 32 :]


class Switchboard:
    """A region's one node."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.now = 0
        self.local: dict[Key, list[Connection]] = {}  # the last one to send is the last
        self.forwarders: dict[Key, list[Connection]] = {}  # in the order of their announcements
        self.links: list[Connection] = []
        self.counters: Counter[str] = Counter()
        self.drops: dict[tuple[str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
        # A receiver of a key's packets over several paths may get PeerGone as often, which is harmless.
        self.repeats = 0
        self.stays = 0

    # Connections.

    def connect(self, key: Key, guest: LoginKind) -> Connection:
        conn = Connection(
            key=key, guest=guest, since=self.now, not_here_at=self.now, keep_alive_at=self.now + self.rules.keep_alive
        )
        if guest is LoginKind.NODE:
            self.links.append(conn)
            return conn
        if self.local.get(key):
            self.counters["total_dup_client_conns"] += 1
        self.local.setdefault(key, []).append(conn)
        for watcher in self.watchers():
            self.write(watcher, presence(conn.key))
        return conn

    def leave(self, conn: Connection) -> None:
        """Remove a connection from the region; its party's later events have no effect."""
        if not conn.is_open:
            return
        conn.is_open = conn.watches = False
        for frame in conn.disco + conn.other:
            self.drop("gone_disconnected", packet_in(frame))
        conn.disco, conn.other = [], []
        if conn.guest is LoginKind.NODE:
            self.links.remove(conn)
            for key in list(conn.announced):
                self.remove_forwarder(conn, key)
            return
        self.local[conn.key].remove(conn)
        if not self.local[conn.key]:
            del self.local[conn.key]
            for watcher in self.watchers():
                self.peer_gone(watcher, conn.key, DISCONNECTED)
            self.tell_if_gone(conn.key)
            self.stays += 1
            for other in self.members():
                ways = other.heard.get(conn.key, set())
                if STRAIGHT in ways:
                    ways -= {STRAIGHT}
                    ways |= {STRAIGHT - self.stays}

    def tell_if_gone(self, key: Key) -> None:
        """Send PeerGone to the receivers of this key's packets if the key has left the region."""
        if key in self.local or key in self.forwarders:
            return
        for conn in self.members():
            if ways := conn.heard.pop(key, None):
                self.peer_gone(conn, key, DISCONNECTED)
                self.repeats += len(ways) - 1

    def members(self) -> Iterator[Connection]:
        for conns in list(self.local.values()):
            yield from list(conns)

    def connections(self) -> list[Connection]:
        return [*self.members(), *self.links]

    def watchers(self) -> list[Connection]:
        return [conn for conn in self.members() if conn.watches]

    # Frames from a connection.

    def receive(self, conn: Connection, frames: Iterable[Frame]) -> None:
        for frame in frames:
            if conn.is_open:
                (self.take_from_node if conn.guest is LoginKind.NODE else self.take)(conn, frame)

    def take_from_node(self, conn: Connection, frame: Frame) -> None:
        match frame.type:
            case 0x09:
                self.add_forwarder(conn, frame.payload[:32])
            case 0x08:
                self.remove_forwarder(conn, frame.payload[:32])
            case 0x12:
                self.pong(conn, frame.payload)

    def take(self, conn: Connection, frame: Frame) -> None:
        payload = frame.payload
        # The last sender is active.
        conns = self.local[conn.key]
        conns.remove(conn)
        conns.append(conn)
        match frame.type:
            case 0x04 if len(payload) >= 32:
                self.send_packet(conn, payload[:32], payload[32:])
            case 0x07 if len(payload) == 1:
                self.prefer(conn, home=payload != b"\0")
            case 0x0A if conn.guest is LoginKind.MESH_PEER and len(payload) >= 64:
                self.forward_packet(conn, payload[:32], payload[32:64], payload[64:])
            case 0x10 if conn.guest is LoginKind.MESH_PEER and not payload:
                self.watch(conn)
            case 0x11 if conn.guest is LoginKind.MESH_PEER and len(payload) == 32:
                for other in list(self.local.get(payload, [])):
                    self.leave(other)
            case 0x12 if len(payload) >= 8:
                self.pong(conn, payload)
            case 0x04 | 0x07 | 0x0A | 0x10 | 0x11 | 0x12:
                self.counters["got_ping"] += frame.type == 0x12
                self.leave(conn)
            case _:
                self.counters["unknown_frames"] += 1

    def send_packet(self, conn: Connection, to: Key, packet: bytes) -> None:
        self.counters["packets_received_disco" if is_disco(packet) else "packets_received_other"] += 1
        self.counters["bytes_received"] += len(packet)
        if to in self.local:
            self.deliver(self.local[to][-1], conn.key, packet, way=STRAIGHT)
        elif to in self.forwarders:
            self.counters["packets_forwarded_out"] += 1
            self.enqueue(self.forwarders[to][0], Frame(FORWARD, conn.key + to + packet))
        else:
            self.drop("unknown_dest", packet)
            self.not_here(conn, to, packet)

    def forward_packet(self, conn: Connection, source: Key, to: Key, packet: bytes) -> None:
        self.counters["packets_forwarded_in"] += 1
        if to in self.local and source != NOBODY:
            self.deliver(self.local[to][-1], source, packet, way=conn.party)
        else:
            self.drop("unknown_dest_on_fwd", packet)
            self.not_here(conn, to, packet)

    def deliver(self, conn: Connection, source: Key, packet: bytes, *, way: int) -> None:
        conn.heard.setdefault(source, set()).add(way)
        self.enqueue(conn, Frame(RECV, source + packet))

    def not_here(self, conn: Connection, key: Key, packet: bytes) -> None:
        if not is_disco(packet):
            return
        conn.not_here_credit = min(3.0, conn.not_here_credit + (self.now - conn.not_here_at) / 1000)
        conn.not_here_at = self.now
        if conn.not_here_credit >= 1:
            conn.not_here_credit -= 1
            self.peer_gone(conn, key, NOT_HERE)

    def prefer(self, conn: Connection, *, home: bool) -> None:
        if home != conn.home and self.now - conn.since > 5_000:
            self.counters["home_moves_in" if home else "home_moves_out"] += 1
        conn.home = home

    def pong(self, conn: Connection, payload: bytes) -> None:
        self.counters["got_ping"] += 1
        self.counters["sent_pong"] += 1
        self.write(conn, Frame(PONG, payload[:8]))

    def watch(self, conn: Connection) -> None:
        if conn.key == self.rules.server_key:
            return
        conn.watches = True
        for key in self.local:
            self.write(conn, presence(key))

    # Other nodes.

    def add_forwarder(self, link: Connection, key: Key) -> None:
        if key in link.announced:
            return
        link.announced[key] = None
        self.forwarders.setdefault(key, []).append(link)
        self.counters["multiforwarder_created"] += len(self.forwarders[key]) == 2

    def remove_forwarder(self, link: Connection, key: Key) -> None:
        if key not in link.announced:
            known = len(self.forwarders.get(key, ()))
            self.counters["packet_forwarder_delete_other_value"] += known == 1 or (known == 0 and key in self.local)
            return
        del link.announced[key]
        self.forwarders[key].remove(link)
        self.counters["multiforwarder_deleted"] += len(self.forwarders[key]) == 1
        if not self.forwarders[key]:
            del self.forwarders[key]
            self.tell_if_gone(key)

    # Frames to a connection.

    def enqueue(self, conn: Connection, frame: Frame) -> None:
        queue = conn.queue(disco=is_disco(packet_in(frame)))
        if conn.stalled and conn.guest is not LoginKind.NODE and len(queue) == self.rules.queue_depth:
            self.drop("queue_head", packet_in(queue.pop(0)))
        queue.append(frame)
        self.flush(conn)

    def write(self, conn: Connection, frame: Frame) -> None:
        conn.control.append(frame)
        self.flush(conn)

    def peer_gone(self, conn: Connection, key: Key, reason: bytes) -> None:
        self.counters[f"peer_gone_{'disconnected' if reason == DISCONNECTED else 'not_here'}_frames"] += 1
        self.write(conn, Frame(PEER_GONE, key + reason))

    def flush(self, conn: Connection) -> None:
        """Write queued frames: first those that may not be dropped, then disco packets, then the others."""
        if conn.stalled:
            waits = conn.control or conn.disco or conn.other
            conn.blocked_at = self.now if waits and conn.blocked_at is None else conn.blocked_at
            return
        for frame in conn.disco + conn.other:
            if frame.type == RECV:
                self.counters["packets_sent"] += 1
                self.counters["bytes_sent"] += len(packet_in(frame))
        conn.written += conn.control + conn.disco + conn.other
        conn.control, conn.disco, conn.other, conn.blocked_at = [], [], [], None

    def drop(self, reason: str, packet: bytes) -> None:
        kind = "disco" if is_disco(packet) else "other"
        packets, size = self.drops[reason, kind]
        self.drops[reason, kind] = packets + 1, size + len(packet)

    # Sockets and time.

    def stall(self, conn: Connection) -> None:
        conn.stalled = True

    def resume(self, conn: Connection) -> None:
        conn.stalled = False
        self.flush(conn)

    def pass_time(self, ms: int) -> None:
        end = self.now + ms
        while (due := min(map(self.next_look, self.connections()), default=end + 1)) <= end:
            self.now = due
            for conn in self.connections():
                if conn.is_open and self.next_look(conn) <= due:
                    self.look_at_clock(conn)
        self.now = end

    def next_look(self, conn: Connection) -> int:
        deadlines = [conn.keep_alive_at] if conn.guest is not LoginKind.NODE else []
        if conn.blocked_at is not None and (timeout := self.rules.write_timeout[conn.guest]):
            deadlines.append(conn.blocked_at + timeout)
        grain = self.rules.grain
        return min(((deadline // grain + 1) * grain for deadline in deadlines), default=1 << 62)

    def look_at_clock(self, conn: Connection) -> None:
        timeout = self.rules.write_timeout[conn.guest]
        if timeout and conn.blocked_at is not None and self.now >= conn.blocked_at + timeout:
            self.counters["sclient_write_timeouts"] += 1
            self.leave(conn)
        elif conn.guest is not LoginKind.NODE and self.now >= conn.keep_alive_at:
            conn.keep_alive_at = self.now + self.rules.keep_alive
            self.write(conn, Frame(KEEP_ALIVE))

    # Counts.

    def board(self) -> tuple[int, int, int, int, int, int]:
        """Count connections, keys here, all keys, keys with several connections, the connections of these, watchers."""
        several = [conns for conns in self.local.values() if len(conns) > 1]
        return (
            len(list(self.members())),
            len(self.local),
            len(self.local.keys() | self.forwarders.keys()),
            len(several),
            sum(map(len, several)),
            len(self.watchers()),
        )

    def queued(self) -> tuple[int, int]:
        """Count the disco and other packets that wait for sockets."""
        conns = self.connections()
        return sum(len(conn.disco) for conn in conns), sum(len(conn.other) for conn in conns)
