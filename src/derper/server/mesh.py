"""The other nodes of the region: one link to each, dialled from here and kept (docs/protocol/mesh.md).

A link is a DERP login with the server's own key and the mesh key, over TLS that the data plane speaks; from `link` on
it is the data plane's, and here only its end is awaited. Packets that come *from* the other nodes come in over the
links that they dial, as those of ordinary connections.
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
from derper.dataplane import Closed, Conn, Connected, DataPlane, Dialled, Event, Frame, Head, Linked
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
"""For each step of a login; the connect and the TLS handshake are one step each."""
LOOK_UP_SECONDS = 30.0
"""Between two look-ups of a name that stands for many nodes."""
REACH_SECONDS = 0.3
"""In which a node of the region answers a connect, or counts as out of reach."""


LINKS: Final = Metric(
    "derper_mesh_links",
    Type.GAUGE,
    "Links to the region's other nodes by how they stand; with `-mesh-with`",
    ("state",),
)


class LinkState(StrEnum):
    """How a link stands."""

    DIALLING = "dialling"
    UP = "up"
    DOWN = "down"  # until the next try
    OURSELVES = "ourselves"  # given up for good


class _OurselvesError(Exception):
    """The node at the other end has our own key."""


_Place: TypeAlias = tuple[str, int] | tuple[str, int, int, int]  # a node's address and port, as sockets name them


@dataclass(slots=True)
class _Call:
    """A connection that we dialled, until it is gone: its events, in order."""

    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    conn: Conn = 0
    place: _Place = ("", 0)
    is_abandoned: bool = False  # nobody waits for it any more


class Mesh:
    """All links of this node. `start` dials, and whoever gets the data plane's events asks `takes` first."""

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
        self._addresses: dict[str, list[str]] = {}  # of the node, by the link's name, as it was resolved last
        self._tasks: set[asyncio.Task[None]] = set()
        self._roots = config.roots
        if self._peers:
            plane.trust(roots.load(self._roots))

    def start(self) -> None:
        """Dial every node, and again whenever a link is lost."""
        for peer in self._peers:
            self._begin(peer)

    async def stop(self) -> None:
        """Dial no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_linked(self) -> bool:
        """Whether there is a link to another node, as far as is known: nothing tells of a cut one for a while."""
        return bool(self._linked)

    async def reaches_another(self) -> bool:
        """Ask whether another node is there to take our clients over: linked, and it takes a new connection now."""
        return any(await asyncio.gather(*map(_takes_connections, self._linked.values())))

    async def change(self, peers: Iterable[MeshPeer], *, anew: bool) -> None:
        """Keep links to these nodes from now on; the others stay as they are, or with `anew` are dialled again."""
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
            self._keep_many(peer) if peer.every_address else self._keep(peer, peer.dial_host)
        )

    def families(self) -> Iterator[Family]:
        """Count the links by how they stand; nothing without nodes to link to."""
        if self._kept:
            states = Counter(self.links.values())
            value = Labelled.by("state", {state.value: states[state] for state in LinkState})
            yield Family(LINKS, value)

    def takes(self, event: Event) -> bool:
        """Take an event of a connection that was dialled here; False: it belongs to somebody else."""
        if isinstance(event, Dialled):
            call = self._dialling.pop(event.token)
            if call.is_abandoned:
                self._plane.close(event.conn, "done")
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

    async def _keep_many(self, peer: MeshPeer) -> None:
        """Keep one link to each address of the name, as the name is resolved now."""
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
                        kept[address] = self._spawn(self._keep(peer, address))
                await asyncio.sleep(LOOK_UP_SECONDS)
        finally:
            for task in kept.values():
                task.cancel()
            await asyncio.gather(*kept.values(), return_exceptions=True)

    async def _keep(self, peer: MeshPeer, address: str) -> None:
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
                except Exception:  # noqa: BLE001  whatever it is, the link is tried again
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
        """Keep places for a node that dials us: a flood of connections must not shut it out."""
        if self._addresses.pop(name, []) != addresses:
            self._plane.reserve_places(map(ip_address, {*addresses, *chain.from_iterable(self._addresses.values())}))
        if addresses:
            self._addresses[name] = addresses

    async def _link(self, peer: MeshPeer, address: str, name: str) -> str:
        """Set a link up and wait for its end; why it ended."""
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
            self._plane.close(call.conn, "done")

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
        """Go from the TLS handshake to a link; the other node's key."""
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
            # A watcher hears of itself at once, so something always comes.
            await _next(call, Linked)
        except NetworkError as error:
            raise NetworkError(
                f"it accepted the login but sent no clients; check that both nodes use the same mesh key ({error})"
            ) from error
        return key


def _authority(peer: MeshPeer) -> str:
    host = f"[{peer.host}]" if ":" in peer.host else peer.host
    return host if peer.port == 443 else f"{host}:{peer.port}"  # noqa: PLR2004  the scheme's own


def _raw(event: Frame) -> RawFrame:
    return RawFrame(event.type, event.payload)


_E = TypeVar("_E", Dialled, Connected, Head, Frame, Linked, Closed)


async def _next(call: _Call, kind: type[_E], seconds: float | None = STEP_SECONDS) -> _E:
    """Wait for the connection's next event, which has to be of this kind."""
    async with asyncio.timeout(seconds):
        event = await call.events.get()
    if isinstance(event, kind):
        return event
    if isinstance(event, Closed):
        raise NetworkError(f"closed: {event.code} {event.detail}".strip())
    raise NetworkError(f"wanted {kind.__name__}, got {type(event).__name__}")


async def _addresses(host: str) -> list[str]:
    # Not by the system's resolver: it cannot be given up, and a server that stops would wait for it.
    known = await asyncio.to_thread(Names)
    return list(dict.fromkeys(map(str, await known.addresses(host, STEP_SECONDS))))


async def _takes_connections(place: _Place) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            async with asyncio.timeout(REACH_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, place)
        except OSError:  # refused, out of reach, or no answer in time
            return False
    return True


async def _connect(host: str, addresses: Iterable[str], port: int) -> socket.socket:
    """Return a socket that is connected to the first of the host's addresses that answers."""
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
