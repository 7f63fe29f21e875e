"""The handle on the running data plane: commands in, events out, on asyncio's loop.

Owned by the server; used from the loop's thread alone. Commands are only staged, and handed over together once a turn
of the loop; the events that a command causes come in a later turn, never from within the call.
"""

import asyncio
import resource
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import count
from types import MappingProxyType
from typing import NamedTuple, cast

from derper.dataplane.certificate import Certificate
from derper.dataplane.events import Conn, Event, MemberSnapshot, RawMemberSnapshot, event_from, member_snapshot_from
from derper.dataplane.extension import native
from derper.protocol.frames import PeerPresent
from derper.protocol.keys import NodePublic

EVENTS_A_TURN = 256
"""Events that are acted on before the loop goes on to whatever else there is."""

PENDING_ON_ANY_MACHINE = 16_384
"""Connections before login that every machine bears, if it has the descriptors."""
BYTES_PER_PENDING = 65_536
"""Bytes of memory that a machine has for each connection before login beyond these; one takes a quarter of that."""
SPARE_DESCRIPTORS = 64
"""Descriptors that connections leave to the rest of the process: files, name servers, other nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneSettings:
    """Sizes and times; times in seconds (docs/protocol/relay.md, Timeouts)."""

    shards: int
    server_key: NodePublic
    queue_depth: int = 32  # packets in each of a connection's two queues
    max_head: int = 65_536  # bytes
    setup_timeout: float = 30.0
    login_timeout: float = 10.0
    write_timeout: float | None = 2.0  # without progress, for clients; None: none
    mesh_write_timeout: float = 30.0
    link_write_timeout: float = 5.0
    link_silence: float = 120.0  # of another node that we dialled, which keep-alives prevent
    memory: int = 4 << 30  # bytes that the process may use; limits the connections before login
    max_before_login: int | None = None  # connections that have not logged in; None: see `max_pending`
    mesh_max_keys: int = 1_000_000  # that one link may announce
    verbose_drops: frozenset[NodePublic] = frozenset()
    keep_alive: float = 60.0
    keep_alive_jitter: float = 5.0
    rtt_interval: float | None = 10.0  # between two looks at a connection's round trip; None: none
    max_queued_bytes: int = 1 << 30  # of memory, for all that waits for clients
    max_routes: int = 1 << 20  # destinations that all senders together are remembered to have
    records_per_key: int = 1 << 23  # that one TLS 1.3 key seals; AES-GCM bears 2^24
    event_delay: float = 0.005  # of what nobody waits for, such as a client's end: it comes with the next event
    keys_a_turn: int = 0  # that come to one shard before the next has its turn, whoever they talk with; 0: placed
    count_senders: bool = False  # estimate how many keys send to each


class Rate(NamedTuple):
    """A token bucket's measures: what comes a second, and how much there is at most and at first."""

    per_second: float
    burst: float


class LoginInfo(NamedTuple):
    """What a client came in with; `version` and `number` are told again in `MemberSnapshot`."""

    is_mesh_peer: bool
    version: int  # of the protocol, as its login said
    number: int  # among all that ever came to log in


class Drops(NamedTuple):
    """Dropped packets of one reason and kind (docs/protocol/metrics.md)."""

    reason: str
    kind: str  # "disco" or "other"
    packets: int
    bytes: int


class TableCounts(NamedTuple):
    """Who is here now (docs/protocol/metrics.md, Relay)."""

    connections: int  # logged in, mesh peers and several of one key included
    keys_local: int
    keys_total: int  # in the region
    duplicate_keys: int
    duplicate_connections: int
    watchers: int


class HistogramSnapshot(NamedTuple):
    """How the values of one histogram spread."""

    name: str
    bounds: tuple[int, ...]  # the buckets' upper bounds, which belong to them
    counts: tuple[int, ...]  # of each bucket alone, and one more without a bound
    sum: int


class Audit(NamedTuple):
    """In a sound table both numbers of connections are the same, and no key is stray."""

    counted: int  # connections, as they came and went
    in_table: int  # connections, as the keys have them
    stray_keys: int


@dataclass(slots=True)
class _Report:
    """A report of all members, until every shard has told its own."""

    missing: int  # shards
    done: asyncio.Future[None]
    parts: list[list[RawMemberSnapshot]] = field(default_factory=list)


class DataPlane:
    """The shards of this process. Make one, give it certificates, `start`, then `listen`; `stop` in the end."""

    def __init__(self, settings: PlaneSettings) -> None:
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptors == resource.RLIM_INFINITY:
            descriptors = sys.maxsize
        self._native = native.Plane(
            shards=settings.shards,
            server_key=settings.server_key.raw,
            queue_depth=settings.queue_depth,
            max_head=settings.max_head,
            setup_timeout=_milliseconds(settings.setup_timeout),
            login_timeout=_milliseconds(settings.login_timeout),
            write_timeout=_milliseconds(settings.write_timeout or 0),
            mesh_write_timeout=_milliseconds(settings.mesh_write_timeout),
            link_write_timeout=_milliseconds(settings.link_write_timeout),
            mesh_max_keys=settings.mesh_max_keys,
            verbose_drops=[key.raw for key in settings.verbose_drops],
            keep_alive=_milliseconds(settings.keep_alive),
            keep_alive_jitter=_milliseconds(settings.keep_alive_jitter),
            rtt_interval=_milliseconds(settings.rtt_interval or 0),
            max_queued_bytes=settings.max_queued_bytes,
            max_routes=settings.max_routes,
            records_per_key=settings.records_per_key,
            count_senders=settings.count_senders,
            link_silence=_milliseconds(settings.link_silence),
            event_delay=_milliseconds(settings.event_delay),
            keys_a_turn=settings.keys_a_turn,
            max_before_login=settings.max_before_login or max_pending(descriptors, settings.memory),
            descriptor_ceiling=descriptors - min(SPARE_DESCRIPTORS, descriptors // 4),
        )
        self.client_rate: Rate | None = None  # in force for keys without an login_info
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_event: Callable[[Event], None] | None = None
        self._flush_is_due = False
        self._shard_count = settings.shards
        self._report_numbers = count()
        self._reports: dict[int, _Report] = {}
        self._waiting: deque[tuple[object, ...]] = deque()  # events that were drained and not yet told

    def start(self, on_event: Callable[[Event], None]) -> None:
        """Deliver events to `on_event`, which must not raise, from the running loop."""
        self._loop = asyncio.get_running_loop()
        self._on_event = on_event
        self._loop.add_reader(self._native.event_fd(), self._look)
        # From the first look on, the shards know that somebody wants to be woken.
        self._look()

    def stop(self) -> None:
        """End every connection and thread; no event comes after this."""
        if self._loop is not None:
            self._loop.remove_reader(self._native.event_fd())
            self._loop = None
        self._waiting.clear()
        for report in self._reports.values():
            report.done.cancel()
        self._native.stop()

    def listen(  # noqa: PLR0913  keywords, each of which one flag sets
        self,
        sock: socket.socket,
        *,
        tls: bool,
        limit: Rate | None = None,
        proxies: Iterable[IPv4Network | IPv6Network] = (),
        trusted: Iterable[IPv4Network | IPv6Network] = (),
        per_ip: int | None = None,
    ) -> int:
        """Accept connections on a listening, non-blocking socket; it stays the caller's, who may close it at once.

        With a limit (connections), those beyond it are closed as soon as they are accepted, and counted. So are those
        of an address that has `per_ip` connections already, here or on any listener that counts them; an IPv6 /64 is
        one address. A connection from one of the `proxies` has to begin with a PROXY header, version 1 or 2; from
        elsewhere, none may. Before login, connections from `trusted` networks, which are proxies of another kind,
        count for no network: each is for a client of its own.
        """
        return self._native.listen(sock.fileno(), tls, limit, _networks(proxies), _networks(trusted), per_ip)

    def reserve_places(self, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
        """Keep places before login for connections from these addresses and no others from now on, 16 for each."""
        self._native.reserve_places(list(addresses))

    def pending_connections(self) -> int:
        """Return how many connections have not logged in, without those in reserved places."""
        return self._native.pending_connections()

    def limit_clients(
        self,
        default: Rate | None,
        per_key: Mapping[NodePublic, Rate | None] = MappingProxyType({}),
        total: Rate | None = None,
    ) -> None:
        """Read no more than this (payload bytes) from clients from now on; None: no limit. Mesh peers have none.

        A key's own login_info wins over `default`; each of its connections may have so much. The `total` is that of all
        clients together, and those that want more than there is get the same each. A rate is above zero.
        """
        self._native.limit_clients(default, {key.raw: rate for key, rate in per_key.items()}, total)
        self.client_rate = default

    def unlisten(self, listener: int) -> None:
        """Stop accepting there."""
        self._native.unlisten(listener)

    def serve_stun(self, sock: socket.socket, *, any_client: bool) -> None:
        """Answer STUN on a bound UDP socket, once; it stays the caller's, who may close it at once.

        Raises:
            OSError: it is no such socket, or there is one already.
        """
        self._native.serve_stun(sock.fileno(), any_client)

    def set_certificates(self, certificates: Iterable[Certificate]) -> None:
        """Serve these and no others from the next handshake on; open connections keep what they have.

        Raises:
            ValueError: a key that TLS cannot use or that is not its certificate's.
        """
        self._native.set_certificates(
            [(one.serves.how, one.serves.of_name, one.serves.of_ip, list(one.chain), one.key) for one in certificates]
        )

    def write(self, conn: Conn, data: bytes, *, tell_drained: bool = False) -> None:
        """Queue bytes; of a switched connection, whole frames."""
        self._native.write(conn, data, tell_drained)
        self._will_flush()

    def await_head(self, conn: Conn) -> None:
        """Collect a request head from a parked connection."""
        self._native.await_head(conn)
        self._will_flush()

    def await_frame(self, conn: Conn, most: int) -> None:
        """Collect one frame of at most `most` payload bytes from a parked connection."""
        self._native.await_frame(conn, most)
        self._will_flush()

    def begin_websocket(self, conn: Conn) -> None:
        """Take the stream for WebSocket from here on, both ways; a parked connection stays parked."""
        self._native.begin_websocket(conn)
        self._will_flush()

    def await_body(self, conn: Conn, length: int) -> None:
        """Hand over the next `length` bytes of a parked connection as they come; `consumed` asks for more."""
        self._native.await_body(conn, length)
        self._will_flush()

    def stream(self, conn: Conn) -> None:
        """Hand over whatever comes on a parked connection, until it ends; `consumed` asks for more.

        No deadline holds any more, in either direction. The peer's end of its sending side ends the connection:
        `Closed` with the code `eof`.
        """
        self._native.stream(conn)
        self._will_flush()

    def consumed(self, conn: Conn, length: int) -> None:
        """Report that this number of bytes of a body or stream was used; at most 64 KiB are delivered ahead."""
        self._native.consumed(conn, length)
        self._will_flush()

    def skip(self, conn: Conn, length: int) -> None:
        """Pass over the next bytes of a parked connection, which `Head` has brought already."""
        self._native.skip(conn, length)
        self._will_flush()

    def switch(self, conn: Conn, presence: PeerPresent, login_info: LoginInfo, *, first: bytes) -> None:
        """Relay from now on; watchers are told `presence`, and the frames `first` are written before any packet."""
        remote = presence.endpoint
        if remote is None:
            raise ValueError("a client has to come from somewhere")
        told = (login_info.version, login_info.number, remote.ip, remote.port)
        self._native.switch(conn, presence.peer.raw, login_info.is_mesh_peer, presence.encode(), told, first)
        self._will_flush()

    def trust(self, roots: list[bytes]) -> None:
        """Trust these root certificates (DER) when nodes are dialled; unreadable ones are passed over."""
        self._native.trust(roots)

    def dial(self, token: int, sock: socket.socket, server_name: str) -> None:
        """Speak TLS, as a client, on a connected socket, which stays the caller's; `Dialled` brings `token` back.

        Raises:
            ValueError: no certificate can be for that name.
        """
        ip, port = sock.getpeername()[:2]
        self._native.dial(token, sock.fileno(), ip_address(ip), port, server_name)

    def link(self, conn: Conn, first: bytes) -> None:
        """Forward to the node at the other end of a parked connection, and believe what it announces, from now on."""
        self._native.link(conn, first)
        self._will_flush()

    def close(self, conn: Conn, code: str, detail: str = "") -> None:
        """Write what is queued, then close."""
        self._native.close(conn, code, detail)
        self._will_flush()

    def write_to(self, key: NodePublic, frames: bytes) -> None:
        """Queue whole frames for every connection of a key; one that is not `Switched` yet may miss them."""
        self._native.write_to(key.raw, frames)

    def write_all(self, frames: bytes, *, spare_mesh_peers: bool = True) -> None:
        """Queue whole frames for every client, a few at a time; one that is not `Switched` yet may miss them."""
        self._native.write_all(frames, spare_mesh_peers)

    def close_key(self, key: NodePublic, code: str, detail: str = "", *, frames: bytes = b"") -> None:
        """Write what is queued and these last frames, then close: every connection of a key that `switch` was said of.

        `Closed` tells of each.
        """
        self._native.close_key(key.raw, frames, code, detail)

    def close_all(self, code: str, detail: str = "", *, frames: bytes = b"", spare_mesh_peers: bool = True) -> None:
        """Close every client as `close_key` does, a few at a time; one that is not `Switched` yet may be left."""
        self._native.close_all(frames, code, detail, spare_mesh_peers)

    async def members(self) -> list[MemberSnapshot]:
        """Return a snapshot of every switched connection, in no order; connections may come and go meanwhile."""
        number = next(self._report_numbers)
        report = _Report(self._shard_count, asyncio.get_running_loop().create_future())
        self._reports[number] = report
        self._native.report(number)
        await report.done
        members: list[MemberSnapshot] = []
        for part in report.parts:
            members += map(member_snapshot_from, part)
            await asyncio.sleep(0)  # others get a say between two parts, however many there are
        return members

    def counters(self) -> dict[str, int]:
        """Return all counters and gauges of the shards by their metric names without `derp_`."""
        return dict(self._native.counters())

    def stun_counters(self) -> dict[str, int]:
        """Return STUN's counters by metric name and label value; zeros without STUN."""
        return dict(self._native.stun_counters())

    def drops(self) -> list[Drops]:
        """Return the dropped packets by reason and kind."""
        return [Drops(*login_info) for login_info in self._native.drops()]

    def histograms(self) -> list[HistogramSnapshot]:
        """Return all histograms by the names of their metrics, without `derp_`."""
        raw = self._native.histograms()
        return [HistogramSnapshot(name, tuple(bounds), tuple(counts), total) for name, bounds, counts, total in raw]

    def average_queue_ms(self) -> float:
        """Return the recent average wait of packets in queues, in milliseconds."""
        return self._native.average_queue_ms()

    def audit(self) -> Audit:
        """Look whether the table of keys agrees with itself."""
        return Audit(*self._native.audit())

    def table_counts(self) -> TableCounts:
        """Count who is here now."""
        return TableCounts(*self._native.table_counts())

    def pulse(self) -> list[int]:
        """Make every shard tick, and say how often each has ticked until now: one whose number stays is stuck."""
        return self._native.pulse()

    def panic(self, shard: int) -> None:
        """Make a shard fail as a bug would, which ends the process: for the test of just that."""
        self._native.panic(shard)

    def _look(self) -> None:
        on_event = self._on_event
        assert on_event is not None  # noqa: S101  set by start, which alone schedules this
        if not self._waiting:
            self._waiting.extend(self._native.drain())
        self._flush_is_due = True  # at the end of this turn, for all commands that the events cause
        # In turns, so that answers leave and others get a say however much has come at once.
        for _ in range(min(len(self._waiting), EVENTS_A_TURN)):
            raw = self._waiting.popleft()
            if raw[0] == native.MEMBERS:
                _, number, members, is_last = cast("tuple[int, int, list[RawMemberSnapshot], bool]", raw)
                self._take_part(number, members, is_last=is_last)
            else:
                on_event(event_from(raw))
        self._flush()
        if self._waiting and self._loop is not None:
            self._loop.call_soon(self._look)

    def _take_part(self, number: int, members: list[RawMemberSnapshot], *, is_last: bool) -> None:
        report = self._reports[number]
        report.parts.append(members)
        report.missing -= is_last
        if report.missing == 0:
            del self._reports[number]
            if not report.done.done():
                report.done.set_result(None)

    def _will_flush(self) -> None:
        if not self._flush_is_due and self._loop is not None:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._loop is not None:
            self._native.flush()


def max_pending(descriptors: int, memory: int) -> int:
    """Return how many connections may be there before login: half the descriptors, if there is memory for them."""
    return max(1, min(descriptors // 2, max(PENDING_ON_ANY_MACHINE, memory // BYTES_PER_PENDING)))


def _networks(networks: Iterable[IPv4Network | IPv6Network]) -> list[tuple[IPv4Address | IPv6Address, int]]:
    return [(network.network_address, network.prefixlen) for network in networks]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
