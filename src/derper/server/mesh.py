"""Links to the other nodes of the region: dials each node and keeps one link to it (docs/protocol/mesh.md).

A link logs in with the server's own key and the mesh key, over the data plane's TLS. After `link` the data plane owns
it, and this module only waits for its end. Packets *from* other nodes arrive over the links that those nodes dialled,
like packets of ordinary connections.
"""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from itertools import chain, count
from typing import Final, TypeAlias, TypeVar

import structlog
from structlog.typing import FilteringBoundLogger

from derper import log
from derper.config import Config, MeshPeer
from derper.dataplane import Closed, CloseReason, Conn, Connected, DataPlane, Dialled, Event, Frame, Head, Linked
from derper.errors import NetworkError, ProtocolError
from derper.host import roots
from derper.host.names import Names
from derper.metrics.exposition import Family, Labelled, Metric, Type
from derper.protocol import metacert
from derper.protocol.frames import WatchConns
from derper.protocol.keys import NodePublic
from derper.protocol.login import (
    MAX_SERVER_INFO,
    MAX_SERVER_KEY,
    NONCE_LEN,
    ClientInfo,
    LoginBox,
    ServerKey,
    client_info_frame,
    open_server_info,
)
from derper.protocol.reader import RawFrame
from derper.protocol.upgrade import UpgradeAnswer, upgrade_request
from derper.server.identity import Identity
from derper.server.listeners import tune

_log: FilteringBoundLogger = structlog.get_logger()

RETRY_SECONDS = 5.0
STEP_SECONDS = 10.0
"""Deadline for each step of a login; the connect and the TLS handshake are one step each."""
LOOK_UP_SECONDS = 30.0
"""Interval between two look-ups of a name with several nodes."""
REACH_SECONDS = 0.3
"""A node that does not accept a connection within this time counts as unreachable."""


LINKS: Final = Metric(
    "derper_mesh_links",
    Type.GAUGE,
    "Links to the region's other nodes by how they stand; with `-mesh-with`",
    ("state",),
)


class LinkState(StrEnum):
    """The state of a link."""

    DIALLING = "dialling"
    UP = "up"
    DOWN = "down"  # until the next attempt
    OURSELVES = "ourselves"  # the address is our own; never dialled again


class _OurselvesError(Exception):
    """The node at the other end has our own key."""


_Place: TypeAlias = tuple[str, int] | tuple[str, int, int, int]  # a node's address and port, as sockets represent them


@dataclass(slots=True)
class _Call:
    """A connection that we dialled, until it is closed, with its events in order."""

    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    conn: Conn = 0
    place: _Place = ("", 0)
    is_abandoned: bool = False  # no task waits for it


class Mesh:
    """All links of this node; pass each event of the data plane to `handle` first."""

    def __init__(self, plane: DataPlane, identity: Identity, config: Config) -> None:
        self.links: dict[str, LinkState] = {}
        self._plane = plane
        self._identity = identity
        self._peers = config.mesh.peers
        self._tcp = config.relay.tcp
        self._tokens = count(1)
        self._dialling: dict[int, _Call] = {}
        self._calls: dict[Conn, _Call] = {}
        self._kept: dict[MeshPeer, asyncio.Task[None]] = {}
        self._linked: dict[str, _Place] = {}  # by the link's name
        self._addresses: dict[str, list[str]] = {}  # the node's addresses in the last look-up, by the link's name
        self._tasks: set[asyncio.Task[None]] = set()
        self._roots = config.roots
        if self._peers:
            plane.trust(roots.load(self._roots))

    def start(self) -> None:
        """Dial every node, and dial again whenever a link ends."""
        for peer in self._peers:
            self._begin(peer)

    async def stop(self) -> None:
        """Stop dialling."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_linked(self) -> bool:
        """True if a link to another node is up. A cut link may count as up until it times out."""
        return bool(self._linked)

    async def reaches_another(self) -> bool:
        """Return whether another node can take our clients: it is linked, and accepts a new connection now."""
        return any(await asyncio.gather(*map(_accepts_connections, self._linked.values())))

    async def change(self, peers: Iterable[MeshPeer], *, anew: bool) -> None:
        """Replace the configured nodes. Links to kept nodes stay, but with `anew` all are dialled again."""
        wanted = dict.fromkeys(peers)
        if wanted:
            self._plane.trust(roots.load(self._roots))
        ended = [self._kept.pop(peer) for peer in list(self._kept) if anew or peer not in wanted]
        for task in ended:
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)
        for peer in wanted:
            if peer not in self._kept:
                self._begin(peer)

    def _begin(self, peer: MeshPeer) -> None:
        self._kept[peer] = self._spawn(
            self._keep_links(peer) if peer.every_address else self._keep_link(peer, peer.dial_host)
        )

    def families(self) -> Iterator[Family]:
        """Return the metric family with the number of links in each state; nothing without configured nodes."""
        if self._kept:
            states = Counter(self.links.values())
            value = Labelled.by("state", {state.value: states[state] for state in LinkState})
            yield Family(LINKS, value)

    def handle(self, event: Event) -> bool:
        """Handle an event of a connection that was dialled here; return False for other connections."""
        if isinstance(event, Dialled):
            call = self._dialling.pop(event.token)
            if call.is_abandoned:
                self._plane.close(event.conn, CloseReason.DONE)
                return True
            call.conn = event.conn
            self._calls[event.conn] = call
        conn: Conn = getattr(event, "conn", 0)
        found = self._calls.get(conn)
        if found is None:
            return False
        found.events.put_nowait(event)
        if isinstance(event, Closed) or not conn:
            del self._calls[conn]
        return True

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _keep_links(self, peer: MeshPeer) -> None:
        """Keep one link to each address that the name has now."""
        kept: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                try:
                    addresses = set(await _addresses(peer.dial_host))
                except NetworkError as error:
                    reason = log.in_one_line(error)
                    _log.warning("cannot resolve the name of a mesh node", name=peer.dial_host, reason=reason)
                else:
                    for address in kept.keys() - addresses:
                        kept.pop(address).cancel()
                    for address in addresses - kept.keys():
                        kept[address] = self._spawn(self._keep_link(peer, address))
                await asyncio.sleep(LOOK_UP_SECONDS)
        finally:
            for task in kept.values():
                task.cancel()
            await asyncio.gather(*kept.values(), return_exceptions=True)

    async def _keep_link(self, peer: MeshPeer, address: str) -> None:
        name = _authority(peer) if address == peer.host else f"{_authority(peer)}/{address}"
        try:
            while True:
                self.links[name] = LinkState.DIALLING
                try:
                    reason = await self._link(peer, address, name)
                except (NetworkError, ProtocolError, OSError) as error:
                    reason = log.in_one_line(error)
                except _OurselvesError:
                    raise
                except Exception:  # noqa: BLE001  the link is retried after any exception
                    _log.exception("internal error (a bug in derper); retrying the mesh link", node=name)
                    reason = "bug"
                self.links[name] = LinkState.DOWN
                _log.warning("mesh link down; retrying", node=name, reason=reason)
                await asyncio.sleep(RETRY_SECONDS)
        except _OurselvesError:
            self._reserve_places(name, [])
            self.links[name] = LinkState.OURSELVES
            _log.info("mesh node is this server itself; not dialling it again", node=name)
        except asyncio.CancelledError:
            self._reserve_places(name, [])
            del self.links[name]
            raise

    def _reserve_places(self, name: str, addresses: list[str]) -> None:
        """Reserve permits for a node that dials us: a flood of connections must not prevent its login."""
        if self._addresses.pop(name, []) != addresses:
            self._plane.reserve_places(map(ip_address, {*addresses, *chain.from_iterable(self._addresses.values())}))
        if addresses:
            self._addresses[name] = addresses

    async def _link(self, peer: MeshPeer, address: str, name: str) -> str:
        """Dial a link and wait for its end; return the reason of the end."""
        call = await self._dial(peer, address, name)
        try:
            try:
                key = await self._log_in(peer, call)
            except TimeoutError as error:
                raise NetworkError(f"no answer within {STEP_SECONDS:.0f} s") from error
            self.links[name] = LinkState.UP
            self._linked[name] = call.place
            _log.info("mesh link up", node=name, key=key)
            closed = await _next(call, Closed, None)
            return f"{closed.code} {closed.detail}".strip()
        finally:
            self._linked.pop(name, None)
            self._plane.close(call.conn, CloseReason.DONE)

    async def _dial(self, peer: MeshPeer, address: str, name: str) -> _Call:
        call = _Call()
        token = next(self._tokens)
        addresses = await _addresses(address)
        self._reserve_places(name, addresses)
        with await _connect(address, addresses, peer.port) as sock:
            tune(sock, self._tcp)
            call.place = sock.getpeername()
            self._dialling[token] = call
            try:
                self._plane.dial(token, sock, peer.host)
            except ValueError as error:
                del self._dialling[token]
                raise NetworkError(str(error)) from error
        try:
            dialled = await _next(call, Dialled)
        except BaseException:
            call.is_abandoned = True
            raise
        if not dialled.conn:
            raise NetworkError("too many open files or not enough memory for another connection")
        return call

    async def _log_in(self, peer: MeshPeer, call: _Call) -> NodePublic:
        """Log in after the TLS handshake; return the other node's key."""
        plane, conn = self._plane, call.conn
        meta = metacert.find((await _next(call, Connected)).chain)
        fast_start = meta is not None and meta.allows_fast_start
        plane.write(conn, upgrade_request(_authority(peer), fast_start=fast_start))
        if not fast_start:
            plane.await_head(conn)
            UpgradeAnswer.parse((await _next(call, Head)).head)
        plane.await_frame(conn, MAX_SERVER_KEY)
        key = ServerKey.decode(_raw(await _next(call, Frame))).key
        if key == self._identity.public:
            raise _OurselvesError
        box = LoginBox(self._identity.private, key)
        info = ClientInfo(mesh_key=self._identity.mesh_key)
        plane.write(conn, client_info_frame(self._identity.public, info, box, os.urandom(NONCE_LEN)))
        plane.await_frame(conn, MAX_SERVER_INFO)
        open_server_info(_raw(await _next(call, Frame)), box)
        plane.link(conn, WatchConns().encode())
        try:
            # A watcher is notified of itself at once, so an event always comes.
            await _next(call, Linked)
        except NetworkError as error:
            raise NetworkError(
                f"it accepted the login but sent no clients; check that both nodes use the same mesh key ({error})"
            ) from error
        return key


def _authority(peer: MeshPeer) -> str:
    host = f"[{peer.host}]" if ":" in peer.host else peer.host
    return host if peer.port == 443 else f"{host}:{peer.port}"  # noqa: PLR2004  the default port of https


def _raw(event: Frame) -> RawFrame:
    return RawFrame(event.type, event.payload)


_E = TypeVar("_E", Dialled, Connected, Head, Frame, Linked, Closed)


async def _next(call: _Call, kind: type[_E], seconds: float | None = STEP_SECONDS) -> _E:
    """Return the connection's next event, which must be of this kind."""
    async with asyncio.timeout(seconds):
        event = await call.events.get()
    if isinstance(event, kind):
        return event
    if isinstance(event, Closed):
        raise NetworkError(f"closed: {event.code} {event.detail}".strip())
    raise NetworkError(f"wanted {kind.__name__}, got {type(event).__name__}")


async def _addresses(host: str) -> list[str]:
    # Not the system's resolver: it cannot be cancelled, and a stopping server would wait for it.
    known = await asyncio.to_thread(Names)
    return list(dict.fromkeys(map(str, await known.addresses(host, STEP_SECONDS))))


async def _accepts_connections(place: _Place) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(REACH_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, place)
        except OSError:  # refused, unreachable, or timed out
            return False
    return True


async def _connect(host: str, addresses: Iterable[str], port: int) -> socket.socket:
    """Return a socket that is connected to the first address that accepts."""
    errors: list[OSError] = []
    for address in addresses:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except OSError as error:
            sock.close()
            errors.append(error)
        else:
            return sock
    raise NetworkError(f"cannot connect to {host} port {port}: {log.in_one_line(errors[0])}")
