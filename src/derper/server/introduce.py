"""From the first request head to the switch: what each connection is, and what it gets.

Every event of the data plane comes in here. A connection is a `Guest` until it is switched or gone; what is in
`_guests` is all that Python holds of connections. A bug while one guest is served costs that guest alone.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from http import HTTPMethod, HTTPStatus
from ipaddress import ip_address
from urllib.parse import unquote

from derper.dataplane import (
    AcceptFailed,
    Closed,
    Conn,
    Data,
    DataPlane,
    Drained,
    Dropped,
    Entry,
    Event,
    Frame,
    Head,
    HeadTooLarge,
    Notice,
    Remote,
    Struggling,
    StunFailed,
    Switched,
    Unserved,
)
from derper.errors import ProtocolError
from derper.protocol.frames import Endpoint
from derper.protocol.login import MAX_CLIENT_INFO
from derper.protocol.reader import HEADER_LEN, RawFrame, whole_frame
from derper.protocol.upgrade import DerpUpgrade, HeadError, Refusal, RequestHead, WebSocketUpgrade, decide
from derper.server.admission.answers import Answer, Applicant, Cause
from derper.server.certificates.tls import Certificates
from derper.server.connection_log import ConnectionLog
from derper.server.http.connection import HttpConnection, HttpServer, last_answer, plain_answer
from derper.server.http.forwarded import Forwarding
from derper.server.http.tunnels import Tunnel, Tunnels
from derper.server.login import LoggedIn, Login
from derper.server.mesh import Mesh
from derper.server.struggles import Struggles

_METHODS = frozenset(HTTPMethod)


@dataclass(frozen=True, slots=True)
class Web:
    """What is served over HTTP."""

    main: HttpServer
    beside: HttpServer | None  # the plain listener's, where the main one speaks TLS
    tunnels: Tunnels
    forwarding: Forwarding


@dataclass(slots=True)
class Guest:
    """A connection that is not switched yet."""

    remote: Remote
    http: HttpConnection | None = None  # while it is served pages
    not_ideal: bool = False  # it would rather be on another node
    tls: str | None = None  # the version under its last request
    number: int = 0  # among all that ever came to log in
    tunnel: Tunnel | None = None  # from its CONNECT on
    asking: asyncio.Task[None] | None = None  # while admission is asked about it
    is_rejected: bool = False  # admission turned it away, and the log says why

    def leave_http(self) -> None:
        """End what was served on it: from here on it is something else."""
        if self.http is not None:
            self.http.connection_lost()
            self.http = None

    def leave(self) -> None:
        """End what is done for it."""
        self.leave_http()
        if self.tunnel is not None:
            self.tunnel.client_gone()
        if self.asking is not None:
            self.asking.cancel()


class Introducer:
    """Introduces every connection of a data plane but those that we dialled ourselves."""

    def __init__(self, plane: DataPlane, web: Web, login: Login, mesh: Mesh, certificates: Certificates | None) -> None:
        self.derp_accepts = 0
        self.websocket_accepts = 0
        self.tls_requests: Counter[str] = Counter()  # by version
        self.logins_rejected: Counter[str] = Counter()  # by cause
        self.logins_unverified = 0  # admitted without an answer
        self._plane = plane
        self._mesh = mesh
        self._web = web
        self._login = login
        self._certificates = certificates  # there with TLS
        self._guests: dict[Conn, Guest] = {}
        self._lines = ConnectionLog()
        self._struggles = Struggles(plane)

    def on_event(self, event: Event) -> None:
        """Act on one event; never raises."""
        if isinstance(event, Notice):
            self._take_notice(event)
            return
        try:
            if not self._mesh.takes(event):
                self._act_on(event)
        except ProtocolError as error:
            self._plane.close(event.conn, "protocol_error", str(error))
        except Exception:  # noqa: BLE001  whatever it is, it costs this one connection
            self._lines.bug(type(event).__name__)
            self._plane.close(event.conn, "bug")

    @property
    def tunnels_evicted(self) -> int:
        """The number of CONNECT tunnels that were closed to make room for others."""
        return self._web.tunnels.evicted

    def stop(self) -> None:
        """End what is still being served."""
        self._lines.stop()
        self._struggles.stop()
        for guest in self._guests.values():
            guest.leave()
        self._guests.clear()

    def tls_being_served(self) -> Counter[str]:
        """Count the connections over TLS, by its version, that have a request open and do not relay yet."""
        guests = self._guests.values()
        return Counter(guest.tls for guest in guests if guest.tls and (guest.http is None or guest.http.is_serving))

    def _act_on(self, event: Event) -> None:
        match event:
            case Head():
                self._introduce(event)
            case Frame():
                self._log_in(event.conn, self._guests[event.conn], RawFrame(event.type, event.payload))
            case Data():
                self._served(event.conn).received(event.data)
            case Drained():
                self._served(event.conn).drained()
            case Switched():
                self._guests.pop(event.conn, None)
            case Struggling():
                self._struggles.heard(event)
            case Closed():
                self._say_goodbye(event)
            case HeadTooLarge():
                self._guests.setdefault(event.conn, Guest(event.remote))
                self._refuse(event.conn, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large")

    def _introduce(self, event: Head) -> None:
        guest = self._guests.setdefault(event.conn, Guest(event.remote))
        try:
            head = RequestHead.parse(event.head)
        except ProtocolError as error:
            status = error.status if isinstance(error, HeadError) else HTTPStatus.BAD_REQUEST
            self._refuse(event.conn, HTTPStatus(status), "bad_request", str(error))
            return
        guest.tls = event.tls
        guest.remote, head = self._web.forwarding.client(event.remote, head)
        if event.tls:
            self.tls_requests[event.tls] += 1
        if head.method == "CONNECT":
            self._connect(event, guest, head)
            return
        if not head.resource or (head.resource == "*" and head.method != "OPTIONS"):
            self._refuse(event.conn, HTTPStatus.BAD_REQUEST, "bad_request", "a target that means nothing here")
            return
        if head.method not in _METHODS:
            # To every page it is one more method that is neither GET nor HEAD, and aiohttp would not take it.
            head = replace(head, method="POST")
        http = self._web.main if event.tls or self._web.beside is None else self._web.beside
        derp = decide(head) if unquote(head.path) == "/derp" and http.relays else None
        match derp:
            case DerpUpgrade():
                self._accept(guest)
                guest.not_ideal = derp.ideal_node is not None
                self._plane.write(event.conn, derp.answer(self._login.server_key) + self._login.greeting)
                self._await_login(event, guest)
            case WebSocketUpgrade(offers_derp=True):
                self._accept(guest)
                self.websocket_accepts += 1
                self._plane.write(event.conn, derp.answer())
                self._plane.begin_websocket(event.conn)
                self._plane.write(event.conn, self._login.greeting)
                self._plane.await_frame(event.conn, MAX_CLIENT_INFO)
            case WebSocketUpgrade():
                self._plane.write(event.conn, derp.answer())
                self._plane.close(event.conn, "refused", "a WebSocket without the subprotocol derp")
            case _:
                self._serve(event.conn, guest, http).request_received(head, derp)

    def _serve(self, conn: Conn, guest: Guest, http: HttpServer) -> HttpConnection:
        """Give what serves the guest pages, made when it is not there or was there for somebody else."""
        if guest.http is not None and guest.http.remote != guest.remote:
            guest.leave_http()  # a proxy goes on for another client
        if guest.http is None:
            guest.http = http.connect(self._plane, conn, guest.remote)
        return guest.http

    def _connect(self, event: Head, guest: Guest, head: RequestHead) -> None:
        guest.leave_http()
        outcome = self._web.tunnels.open(event.conn, head, guest.remote.ip, tls=event.tls is not None)
        if isinstance(outcome, Refusal):
            self._plane.write(event.conn, last_answer(outcome))
            self._plane.close(event.conn, "connect_refused", outcome.body.strip())
        else:
            guest.tunnel = outcome

    def _accept(self, guest: Guest) -> None:
        """Count a connection that goes on to log in; what was served on it before is over."""
        self.derp_accepts += 1
        guest.number = self.derp_accepts
        guest.leave_http()

    def _await_login(self, event: Head, guest: Guest) -> None:
        """Go on with the client's first frame; one that knows our key already has sent it right behind its request."""
        frame = whole_frame(event.ahead)
        if frame is None:
            self._plane.await_frame(event.conn, MAX_CLIENT_INFO)
        else:
            self._plane.skip(event.conn, HEADER_LEN + len(frame.payload))
            self._log_in(event.conn, guest, frame)

    def _log_in(self, conn: Conn, guest: Guest, frame: RawFrame) -> None:
        try:
            client = self._login.open(frame)
        except ProtocolError as error:
            self.logins_rejected[Cause.INVALID] += 1
            self._plane.close(conn, "login_failed", str(error))
            return
        if client.refusal is not None:
            self._turn_away(conn, guest, client, client.refusal)
        elif client.mesh_peer or self._login.door.is_open:
            self._let_in(conn, guest, client)
        else:
            guest.asking = asyncio.get_running_loop().create_task(self._ask(conn, guest, client))

    async def _ask(self, conn: Conn, guest: Guest, client: LoggedIn) -> None:
        """Let a client in or turn it away, once admission has said which; it waits, parked, and nobody else does."""
        try:
            answer = await self._login.door.ask(Applicant(client.key, guest.remote.ip))
            if conn not in self._guests:
                return
            if answer.admits:
                self.logins_unverified += answer.is_waived
                self._let_in(conn, guest, client)
            else:
                self._turn_away(conn, guest, client, answer)
        except Exception:  # noqa: BLE001  whatever it is, it costs this one connection
            self._lines.bug("admission")
            self._plane.close(conn, "bug")

    def _let_in(self, conn: Conn, guest: Guest, client: LoggedIn) -> None:
        self._lines.logged_in(client.key, guest.remote.ip, mesh_peer=client.mesh_peer)
        remote = Endpoint(ip_address(guest.remote.ip), guest.remote.port)
        presence = client.presence(remote, not_ideal=guest.not_ideal)
        entry = Entry(client.mesh_peer, client.version, guest.number)
        self._plane.switch(conn, presence, entry, first=client.answer)

    def _turn_away(self, conn: Conn, guest: Guest, client: LoggedIn, answer: Answer) -> None:
        """Tell a client why, in the frame that real clients show to their user, and close.

        Without ServerInfo: a program that waits for it has not logged in, whatever else it reads.
        """
        self.logins_rejected[answer.cause] += 1
        self._lines.rejected(client.key, guest.remote.ip, answer)
        guest.is_rejected = True
        self._plane.write(conn, answer.farewell)
        self._plane.close(conn, "refused", answer.reason)

    def _say_goodbye(self, event: Closed) -> None:
        guest = self._guests.pop(event.conn, None)
        if guest is not None:
            guest.leave()
        is_tunnel = guest is not None and guest.tunnel is not None and guest.tunnel.is_open
        self._lines.ended(event, was_rejected=guest is not None and guest.is_rejected, was_tunnel=is_tunnel)

    def _served(self, conn: Conn) -> HttpConnection | Tunnel:
        guest = self._guests[conn]
        served = guest.tunnel or guest.http
        if served is None:
            raise RuntimeError(f"connection {conn} sends data that nobody has asked for")
        return served

    def _refuse(self, conn: Conn, status: HTTPStatus, code: str, detail: str = "") -> None:
        self._plane.write(conn, plain_answer(status))
        self._plane.close(conn, code, detail)

    def _take_notice(self, event: Notice) -> None:
        match event:
            case AcceptFailed():
                self._lines.accept_failed(event.error)
            case StunFailed():
                self._lines.stun_failed(event.error)
            case Unserved():
                # The log hears of it with the connection's end.
                if self._certificates is not None:
                    self._certificates.missed(event)
            case Dropped():
                self._lines.dropped(event)
