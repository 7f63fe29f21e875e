"""The interface of the running data plane: commands in, events out, on asyncio's loop.

Owned by the server; used from the loop's thread alone. Commands are collected and passed together once per turn of the
loop. The events of a command come in a later turn, never during the call.
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
from derper.dataplane.close_reason import CloseReason
from derper.dataplane.events import Conn, Event, MemberSnapshot, RawMemberSnapshot, event_from, member_snapshot_from
from derper.dataplane.extension import native
from derper.protocol.frames import PeerPresent
from derper.protocol.keys import NodePublic

EVENTS_A_TURN = 256
"""Maximum events per turn of the loop."""

PENDING_ON_ANY_MACHINE = 16_384
"""Connections before login on any machine, if it has enough descriptors."""
BYTES_PER_PENDING = 65_536
"""Bytes of memory for each further connection before login; one takes a quarter of that."""
SPARE_DESCRIPTORS = 64
"""Descriptors reserved for the rest of the process: files, name servers, other nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneSettings:
    """Sizes, and times in seconds (docs/protocol/relay.md, Timeouts)."""

    shards: int
    server_key: NodePublic
    queue_depth: int = 32  # packets in each of a connection's two queues
    max_head: int = 65_536  # bytes
    setup_timeout: float = 30.0
    login_timeout: float = 10.0
    write_timeout: float | None = 2.0  # without progress, for clients; None: no timeout
    mesh_write_timeout: float = 30.0
    link_write_timeout: float = 5.0
    link_silence: float = 120.0  # without bytes from a node that we dialled; its keep-alives prevent this
    memory: int = 4 << 30  # bytes that the process may use; determines the default of `max_before_login`
    max_before_login: int | None = None  # connections before login; None: see `max_pending`
    mesh_max_keys: int = 1_000_000  # keys that one link may announce
    verbose_drops: frozenset[NodePublic] = frozenset()
    keep_alive: float = 60.0
    keep_alive_jitter: float = 5.0
    rtt_interval: float | None = 10.0  # between two round-trip measurements of a connection; None: no measurements
    max_queued_bytes: int = 1 << 30  # bytes in all queues to clients
    max_routes: int = 1 << 20  # routes of all senders together
    records_per_key: int = 1 << 23  # encrypted with one TLS 1.3 key; the limit of AES-GCM is 2^24
    # maximum delay of non-urgent events, such as a client's end; an urgent event delivers them, too
    event_delay: float = 0.005
    keys_a_turn: int = 0  # new keys that one shard gets before the next shard; 0: placement by affinity
    count_senders: bool = False  # estimate the number of senders to each key


class Rate(NamedTuple):
    """A token bucket: the refill per second, and the maximum and initial contents."""

    per_second: float
    burst: float


class LoginInfo(NamedTuple):
    """Facts about a login; `version` and `number` appear in `MemberSnapshot`."""

    is_mesh_peer: bool
    version: int  # of the protocol, from the login
    number: int  # among all connections that began a login


class Drops(NamedTuple):
    """Dropped packets of one reason and kind (docs/protocol/metrics.md)."""

    reason: str
    kind: str  # "disco" or "other"
    packets: int
    bytes: int


class TableCounts(NamedTuple):
    """The current numbers of connections and keys (docs/protocol/metrics.md, Relay)."""

    connections: int  # logged in, including mesh peers and duplicates
    keys_local: int
    keys_total: int  # in the region
    duplicate_keys: int
    duplicate_connections: int
    watchers: int


class HistogramSnapshot(NamedTuple):
    """The values of one histogram."""

    name: str
    bounds: tuple[int, ...]  # upper bounds of the buckets, inclusive
    counts: tuple[int, ...]  # per bucket, not cumulative, with one more for values above all bounds
    sum: int


class Audit(NamedTuple):
    """Counts of invariants: in a consistent table `counted` equals `in_table`, and no key is stray."""

    counted: int  # connections, by their logins and ends
    in_table: int  # connections, by the table's keys
    stray_keys: int


@dataclass(slots=True)
class _Report:
    """A report of all members, until every shard has sent its part."""

    missing: int  # shards without a part so far
    done: asyncio.Future[None]
    parts: list[list[RawMemberSnapshot]] = field(default_factory=list)


class DataPlane:
    """The shards of this process.

    Create one, set certificates, call `start`, then `listen`; call `stop` at the end.
    """

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
        self.client_rate: Rate | None = None  # for keys without a limit of their own
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_event: Callable[[Event], None] | None = None
        self._flush_is_due = False
        self._shard_count = settings.shards
        self._report_numbers = count()
        self._reports: dict[int, _Report] = {}
        self._waiting: deque[tuple[object, ...]] = deque()  # drained events that are not delivered yet

    def start(self, on_event: Callable[[Event], None]) -> None:
        """Deliver events to `on_event`, which must not raise, from the running loop."""
        self._loop = asyncio.get_running_loop()
        self._on_event = on_event
        self._loop.add_reader(self._native.event_fd(), self._deliver)
        # After the first call, the shards know that an event must wake this thread.
        self._deliver()

    def stop(self) -> None:
        """Close every connection and end every thread; no event comes after this."""
        if self._loop is not None:
            self._loop.remove_reader(self._native.event_fd())
            self._loop = None
        self._waiting.clear()
        for report in self._reports.values():
            report.done.cancel()
        self._native.stop()

    def listen(  # noqa: PLR0913  keyword arguments, one per flag
        self,
        sock: socket.socket,
        *,
        tls: bool,
        limit: Rate | None = None,
        proxies: Iterable[IPv4Network | IPv6Network] = (),
        trusted: Iterable[IPv4Network | IPv6Network] = (),
        per_ip: int | None = None,
    ) -> int:
        """Accept connections on a listening, non-blocking socket; the caller keeps it and may close it at once.

        With `limit` (connections), further ones are closed at once, and counted. The same applies to an address with
        `per_ip` connections on all listeners with `per_ip`; an IPv6 /64 counts as one address. A connection from one of
        the `proxies` must begin with a PROXY header, version 1 or 2; all others must not. The `trusted` networks are
        HTTP proxies. Before login, their connections count for no network, because each is for a different client.
        """
        return self._native.listen(sock.fileno(), tls, limit, _networks(proxies), _networks(trusted), per_ip)

    def reserve_places(self, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
        """Reserve 16 permits each for connections from these addresses; replaces earlier reservations."""
        self._native.reserve_places(list(addresses))

    def pending_connections(self) -> int:
        """Return the number of connections before login, without those with reserved permits."""
        return self._native.pending_connections()

    def limit_clients(
        self,
        default: Rate | None,
        per_key: Mapping[NodePublic, Rate | None] = MappingProxyType({}),
        total: Rate | None = None,
    ) -> None:
        """Limit the payload bytes read from clients; None: unlimited. Mesh peers are never limited.

        A key's own limit replaces `default`, and applies to each of its connections. `total` applies to all clients
        together; clients that want more than is available get equal shares. A rate is above zero.
        """
        self._native.limit_clients(default, {key.raw: rate for key, rate in per_key.items()}, total)
        self.client_rate = default

    def unlisten(self, listener: int) -> None:
        """Stop accepting on a listener."""
        self._native.unlisten(listener)

    def serve_stun(self, sock: socket.socket, *, any_client: bool) -> None:
        """Answer STUN on a bound UDP socket, once; the caller keeps the socket and may close it at once.

        Raises:
            OSError: It is not a UDP socket, or STUN is served already.
        """
        self._native.serve_stun(sock.fileno(), any_client)

    def set_certificates(self, certificates: Iterable[Certificate]) -> None:
        """Replace all certificates from the next handshake on; open connections keep theirs.

        Raises:
            ValueError: A key is unusable for TLS or does not match its certificate.
        """
        self._native.set_certificates(
            [
                (
                    certificate.serves.how,
                    certificate.serves.of_name,
                    certificate.serves.of_ip,
                    list(certificate.chain),
                    certificate.key,
                )
                for certificate in certificates
            ]
        )

    def write(self, conn: Conn, data: bytes, *, tell_drained: bool = False) -> None:
        """Queue bytes; for a switched connection, complete frames."""
        self._native.write(conn, data, tell_drained)
        self._will_flush()

    def await_head(self, conn: Conn) -> None:
        """Read a request head from a parked connection."""
        self._native.await_head(conn)
        self._will_flush()

    def await_frame(self, conn: Conn, most: int) -> None:
        """Read one frame of at most `most` payload bytes from a parked connection."""
        self._native.await_frame(conn, most)
        self._will_flush()

    def begin_websocket(self, conn: Conn) -> None:
        """Use WebSocket framing from now on, in both directions; a parked connection stays parked."""
        self._native.begin_websocket(conn)
        self._will_flush()

    def await_body(self, conn: Conn, length: int) -> None:
        """Deliver the next `length` bytes of a parked connection as they arrive; `consumed` requests more."""
        self._native.await_body(conn, length)
        self._will_flush()

    def stream(self, conn: Conn) -> None:
        """Deliver all bytes of a parked connection until its end; `consumed` requests more.

        No deadline applies any more, in either direction. If the peer ends its sending side, the connection ends:
        `Closed` with the code `eof`.
        """
        self._native.stream(conn)
        self._will_flush()

    def consumed(self, conn: Conn, length: int) -> None:
        """Report that this number of bytes of a body or stream was used; at most 64 KiB are delivered ahead."""
        self._native.consumed(conn, length)
        self._will_flush()

    def skip(self, conn: Conn, length: int) -> None:
        """Skip the next bytes of a parked connection, which `Head` has delivered already."""
        self._native.skip(conn, length)
        self._will_flush()

    def switch(self, conn: Conn, presence: PeerPresent, login_info: LoginInfo, *, first: bytes) -> None:
        """Switch a connection; watchers get `presence`, and the frames `first` are written before any packet."""
        remote = presence.endpoint
        if remote is None:
            raise ValueError("a client needs a remote address")
        login = (login_info.version, login_info.number, remote.ip, remote.port)
        self._native.switch(conn, presence.peer.raw, login_info.is_mesh_peer, presence.encode(), login, first)
        self._will_flush()

    def trust(self, roots: list[bytes]) -> None:
        """Trust these root certificates (DER) for dialled nodes; unreadable ones are skipped."""
        self._native.trust(roots)

    def dial(self, token: int, sock: socket.socket, server_name: str) -> None:
        """Start TLS as a client on a connected socket, which the caller keeps; `Dialled` contains `token`.

        Raises:
            ValueError: The server name is invalid.
        """
        ip, port = sock.getpeername()[:2]
        self._native.dial(token, sock.fileno(), ip_address(ip), port, server_name)

    def link(self, conn: Conn, first: bytes) -> None:
        """Make a parked connection a link: forward packets to its node, and accept the keys that it announces."""
        self._native.link(conn, first)
        self._will_flush()

    def close(self, conn: Conn, code: CloseReason, detail: str = "") -> None:
        """Write the queued bytes, then close."""
        self._native.close(conn, code, detail)
        self._will_flush()

    def write_to(self, key: NodePublic, frames: bytes) -> None:
        """Queue complete frames for every connection of a key; a connection without `Switched` may miss them."""
        self._native.write_to(key.raw, frames)

    def write_all(self, frames: bytes, *, spare_mesh_peers: bool = True) -> None:
        """Queue complete frames for every client, some per tick; a connection without `Switched` may miss them."""
        self._native.write_all(frames, spare_mesh_peers)

    def close_key(self, key: NodePublic, code: CloseReason, detail: str = "", *, frames: bytes = b"") -> None:
        """Write the queued bytes and these last frames, then close every connection of a key.

        This includes all connections that `switch` was called for. Each causes a `Closed`.
        """
        self._native.close_key(key.raw, frames, code, detail)

    def close_all(
        self, code: CloseReason, detail: str = "", *, frames: bytes = b"", spare_mesh_peers: bool = True
    ) -> None:
        """Close every client like `close_key`, some per tick; a connection without `Switched` may stay open."""
        self._native.close_all(frames, code, detail, spare_mesh_peers)

    async def members(self) -> list[MemberSnapshot]:
        """Return a snapshot of every switched connection, in no order; meanwhile connections may begin and end."""
        number = next(self._report_numbers)
        report = _Report(self._shard_count, asyncio.get_running_loop().create_future())
        self._reports[number] = report
        self._native.report(number)
        await report.done
        members: list[MemberSnapshot] = []
        for part in report.parts:
            members += map(member_snapshot_from, part)
            await asyncio.sleep(0)  # let other tasks run between two parts
        return members

    def counters(self) -> dict[str, int]:
        """Return all counters and gauges of the shards by their metric names without `derp_`."""
        return dict(self._native.counters())

    def stun_counters(self) -> dict[str, int]:
        """Return STUN's counters by metric name and label value; zeros without STUN."""
        return dict(self._native.stun_counters())

    def drops(self) -> list[Drops]:
        """Return the dropped packets by reason and kind."""
        return [Drops(*row) for row in self._native.drops()]

    def histograms(self) -> list[HistogramSnapshot]:
        """Return all histograms by the names of their metrics, without `derp_`."""
        raw = self._native.histograms()
        return [HistogramSnapshot(name, tuple(bounds), tuple(counts), total) for name, bounds, counts, total in raw]

    def average_queue_ms(self) -> float:
        """Return the recent average wait of packets in queues, in milliseconds."""
        return self._native.average_queue_ms()

    def audit(self) -> Audit:
        """Return counts that show whether the table of keys is consistent."""
        return Audit(*self._native.audit())

    def table_counts(self) -> TableCounts:
        """Return the current numbers of connections and keys."""
        return TableCounts(*self._native.table_counts())

    def pulse(self) -> list[int]:
        """Wake every shard, and return each shard's tick count so far. If a count stops growing, that shard hangs."""
        return self._native.pulse()

    def panic(self, shard: int) -> None:
        """Panic in a shard, which ends the process; for tests of that."""
        self._native.panic(shard)

    def _deliver(self) -> None:
        on_event = self._on_event
        assert on_event is not None  # noqa: S101  start sets it before the first call
        if not self._waiting:
            self._waiting.extend(self._native.drain())
        self._flush_is_due = True  # at the end of this turn, for all commands of these events
        # A limit per turn, so that answers are sent and other tasks run even with many events.
        for _ in range(min(len(self._waiting), EVENTS_A_TURN)):
            raw = self._waiting.popleft()
            if raw[0] == native.MEMBERS:
                _, number, members, is_last = cast("tuple[int, int, list[RawMemberSnapshot], bool]", raw)
                self._add_part(number, members, is_last=is_last)
            else:
                on_event(event_from(raw))
        self._flush()
        if self._waiting and self._loop is not None:
            self._loop.call_soon(self._deliver)

    def _add_part(self, number: int, members: list[RawMemberSnapshot], *, is_last: bool) -> None:
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
    """Return the maximum of connections before login: half the descriptors, limited by memory."""
    return max(1, min(descriptors // 2, max(PENDING_ON_ANY_MACHINE, memory // BYTES_PER_PENDING)))


def _networks(networks: Iterable[IPv4Network | IPv6Network]) -> list[tuple[IPv4Address | IPv6Address, int]]:
    return [(network.network_address, network.prefixlen) for network in networks]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
