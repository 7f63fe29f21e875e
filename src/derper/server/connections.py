"""Connections from their first request head until they are switched: HTTP, tunnels, upgrades and logins.

Every event of the data plane is dispatched here. A connection is a `PendingConnection` until it is switched or closed.
Python keeps no other state of connections than `_pending`. An exception during an event closes that connection only.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from http import HTTPMethod, HTTPStatus
from ipaddress import ip_address
from urllib.parse import unquote

from derper.dataplane import (
    AcceptFailed,
    ClientImpaired,
    Closed,
    CloseReason,
    Conn,
    Data,
    DataPlane,
    Drained,
    Dropped,
    Event,
    Frame,
    Head,
    HeadTooLarge,
    LoginInfo,
    Notice,
    Remote,
    StunFailed,
    Switched,
    Unserved,
)
from derper.errors import ProtocolError
from derper.protocol.frames import Endpoint
from derper.protocol.login import MAX_CLIENT_INFO
from derper.protocol.reader import HEADER_LEN, RawFrame, whole_frame
from derper.protocol.upgrade import DerpUpgrade, HeadError, Refusal, RequestHead, WebSocketUpgrade, decide
from derper.server.admission.answers import Answer, Cause, ClientIdentity
from derper.server.certificates.tls import Certificates
from derper.server.connection_log import ConnectionLog
from derper.server.http.connection import HttpConnection, HttpServer, last_answer, plain_answer
from derper.server.http.forwarded import Forwarding
from derper.server.http.tunnels import Tunnel, Tunnels
from derper.server.impairments import ImpairmentNotices
from derper.server.login import LoggedIn, Login
from derper.server.mesh import Mesh

_METHODS = frozenset(HTTPMethod)


@dataclass(frozen=True, slots=True)
class Web:
    """The HTTP side of the relay."""

    main: HttpServer
    plain: HttpServer | None  # of the plain listener, if the main one uses TLS
    tunnels: Tunnels
    forwarding: Forwarding


@dataclass(slots=True)
class PendingConnection:
    """A connection before its switch."""

    remote: Remote
    http: HttpConnection | None = None  # while it requests pages
    not_ideal: bool = False  # the client asked for another node
    tls: str | None = None  # the TLS version of its last request
    number: int = 0  # its position among all connections that began a login
    tunnel: Tunnel | None = None  # after its CONNECT
    admission: asyncio.Task[None] | None = None  # the running admission check
    is_rejected: bool = False  # admission rejected it, and the log has the reason

    def leave_http(self) -> None:
        """Stop serving HTTP on the connection."""
        if self.http is not None:
            self.http.connection_lost()
            self.http = None

    def leave(self) -> None:
        """Stop HTTP, the tunnel and the admission check of the connection."""
        self.leave_http()
        if self.tunnel is not None:
            self.tunnel.client_gone()
        if self.admission is not None:
            self.admission.cancel()


class ConnectionHandler:
    """Handles the events of all connections except links."""

    def __init__(self, plane: DataPlane, web: Web, login: Login, mesh: Mesh, certificates: Certificates | None) -> None:
        self.derp_accepts = 0
        self.websocket_accepts = 0
        self.tls_requests: Counter[str] = Counter()  # by version
        self.logins_rejected: Counter[str] = Counter()  # by cause
        self.logins_unverified = 0  # admitted although a check had no answer
        self._plane = plane
        self._mesh = mesh
        self._web = web
        self._login = login
        self._certificates = certificates  # None without TLS
        self._pending: dict[Conn, PendingConnection] = {}
        self._lines = ConnectionLog()
        self._impairments = ImpairmentNotices(plane)

    def on_event(self, event: Event) -> None:
        """Handle one event; never raises."""
        if isinstance(event, Notice):
            self._on_notice(event)
            return
        try:
            if not self._mesh.handle(event):
                self._act_on(event)
        except ProtocolError as error:
            self._plane.close(event.conn, CloseReason.PROTOCOL_ERROR, str(error))
        except Exception:  # noqa: BLE001  an exception closes this connection only
            self._lines.bug(type(event).__name__)
            self._plane.close(event.conn, CloseReason.BUG)

    @property
    def tunnels_evicted(self) -> int:
        """The number of CONNECT tunnels that were closed to make room for others."""
        return self._web.tunnels.evicted

    def stop(self) -> None:
        """Stop serving all pending connections."""
        self._lines.stop()
        self._impairments.stop()
        for pending in self._pending.values():
            pending.leave()
        self._pending.clear()

    def tls_being_served(self) -> Counter[str]:
        """Count the pending connections with an open request, by TLS version."""
        pending = self._pending.values()
        return Counter(
            pending.tls for pending in pending if pending.tls and (pending.http is None or pending.http.is_serving)
        )

    def _act_on(self, event: Event) -> None:
        match event:
            case Head():
                self._on_head(event)
            case Frame():
                self._log_in(event.conn, self._pending[event.conn], RawFrame(event.type, event.payload))
            case Data():
                self._served(event.conn).received(event.data)
            case Drained():
                self._served(event.conn).drained()
            case Switched():
                self._pending.pop(event.conn, None)
            case ClientImpaired():
                self._impairments.on_impaired(event)
            case Closed():
                self._on_closed(event)
            case HeadTooLarge():
                self._pending.setdefault(event.conn, PendingConnection(event.remote))
                self._refuse(event.conn, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, CloseReason.HEAD_TOO_LARGE)

    def _on_head(self, event: Head) -> None:
        pending = self._pending.setdefault(event.conn, PendingConnection(event.remote))
        try:
            head = RequestHead.parse(event.head)
        except ProtocolError as error:
            status = error.status if isinstance(error, HeadError) else HTTPStatus.BAD_REQUEST
            self._refuse(event.conn, HTTPStatus(status), CloseReason.BAD_REQUEST, str(error))
            return
        pending.tls = event.tls
        pending.remote, head = self._web.forwarding.client(event.remote, head)
        if event.tls:
            self.tls_requests[event.tls] += 1
        if head.method == "CONNECT":
            self._connect(event, pending, head)
            return
        if not head.resource or (head.resource == "*" and head.method != "OPTIONS"):
            self._refuse(event.conn, HTTPStatus.BAD_REQUEST, CloseReason.BAD_REQUEST, "unknown request target")
            return
        if head.method not in _METHODS:
            # Pages answer POST as they answer an unknown method; aiohttp would reject the unknown method.
            head = replace(head, method="POST")
        http = self._web.main if event.tls or self._web.plain is None else self._web.plain
        derp = decide(head) if unquote(head.path) == "/derp" and http.relays else None
        match derp:
            case DerpUpgrade():
                self._accept(pending)
                pending.not_ideal = derp.ideal_node is not None
                self._plane.write(event.conn, derp.answer(self._login.server_key) + self._login.greeting)
                self._await_login(event, pending)
            case WebSocketUpgrade(offers_derp=True):
                self._accept(pending)
                self.websocket_accepts += 1
                self._plane.write(event.conn, derp.answer())
                self._plane.begin_websocket(event.conn)
                self._plane.write(event.conn, self._login.greeting)
                self._plane.await_frame(event.conn, MAX_CLIENT_INFO)
            case WebSocketUpgrade():
                self._plane.write(event.conn, derp.answer())
                self._plane.close(event.conn, CloseReason.REFUSED, "a WebSocket without the subprotocol derp")
            case _:
                self._serve(event.conn, pending, http).request_received(head, derp)

    def _serve(self, conn: Conn, pending: PendingConnection, http: HttpServer) -> HttpConnection:
        """Return the HTTP server side of a connection; replace it if its client changed."""
        if pending.http is not None and pending.http.remote != pending.remote:
            pending.leave_http()  # the proxy sent another client's request
        if pending.http is None:
            pending.http = http.connect(self._plane, conn, pending.remote)
        return pending.http

    def _connect(self, event: Head, pending: PendingConnection, head: RequestHead) -> None:
        pending.leave_http()
        outcome = self._web.tunnels.open(event.conn, head, pending.remote.ip, tls=event.tls is not None)
        if isinstance(outcome, Refusal):
            self._plane.write(event.conn, last_answer(outcome))
            self._plane.close(event.conn, CloseReason.CONNECT_REFUSED, outcome.body.strip())
        else:
            pending.tunnel = outcome

    def _accept(self, pending: PendingConnection) -> None:
        """Count a connection that begins a login, and stop HTTP on it."""
        self.derp_accepts += 1
        pending.number = self.derp_accepts
        pending.leave_http()

    def _await_login(self, event: Head, pending: PendingConnection) -> None:
        """Wait for the client's first frame.

        A client that already knows our key sends this frame directly after its request.
        """
        frame = whole_frame(event.ahead)
        if frame is None:
            self._plane.await_frame(event.conn, MAX_CLIENT_INFO)
        else:
            self._plane.skip(event.conn, HEADER_LEN + len(frame.payload))
            self._log_in(event.conn, pending, frame)

    def _log_in(self, conn: Conn, pending: PendingConnection, frame: RawFrame) -> None:
        try:
            client = self._login.open(frame)
        except ProtocolError as error:
            self.logins_rejected[Cause.INVALID] += 1
            self._plane.close(conn, CloseReason.LOGIN_FAILED, str(error))
            return
        if client.refusal is not None:
            self._reject(conn, pending, client, client.refusal)
        elif client.mesh_peer or self._login.policy.is_open:
            self._admit(conn, pending, client)
        else:
            pending.admission = asyncio.get_running_loop().create_task(self._ask(conn, pending, client))

    async def _ask(self, conn: Conn, pending: PendingConnection, client: LoggedIn) -> None:
        """Admit or reject a client as admission decides; meanwhile only this connection is parked."""
        try:
            answer = await self._login.policy.ask(ClientIdentity(client.key, pending.remote.ip))
            if conn not in self._pending:
                return
            if answer.admits:
                self.logins_unverified += answer.is_waived
                self._admit(conn, pending, client)
            else:
                self._reject(conn, pending, client, answer)
        except Exception:  # noqa: BLE001  an exception closes this connection only
            self._lines.bug("admission")
            self._plane.close(conn, CloseReason.BUG)

    def _admit(self, conn: Conn, pending: PendingConnection, client: LoggedIn) -> None:
        self._lines.logged_in(client.key, pending.remote.ip, mesh_peer=client.mesh_peer)
        remote = Endpoint(ip_address(pending.remote.ip), pending.remote.port)
        presence = client.presence(remote, not_ideal=pending.not_ideal)
        login_info = LoginInfo(client.mesh_peer, client.version, pending.number)
        self._plane.switch(conn, presence, login_info, first=client.answer)

    def _reject(self, conn: Conn, pending: PendingConnection, client: LoggedIn, answer: Answer) -> None:
        """Send a client the reason in a Health frame, which real clients show to their user, and close.

        ServerInfo is not sent: without it no client treats the login as successful.
        """
        self.logins_rejected[answer.cause] += 1
        self._lines.rejected(client.key, pending.remote.ip, answer)
        pending.is_rejected = True
        self._plane.write(conn, answer.rejection_frame)
        self._plane.close(conn, CloseReason.REFUSED, answer.reason)

    def _on_closed(self, event: Closed) -> None:
        pending = self._pending.pop(event.conn, None)
        if pending is not None:
            pending.leave()
        is_tunnel = pending is not None and pending.tunnel is not None and pending.tunnel.is_open
        self._lines.ended(event, was_rejected=pending is not None and pending.is_rejected, was_tunnel=is_tunnel)

    def _served(self, conn: Conn) -> HttpConnection | Tunnel:
        pending = self._pending[conn]
        served = pending.tunnel or pending.http
        if served is None:
            raise RuntimeError(f"connection {conn} sent unrequested data")
        return served

    def _refuse(self, conn: Conn, status: HTTPStatus, code: CloseReason, detail: str = "") -> None:
        self._plane.write(conn, plain_answer(status))
        self._plane.close(conn, code, detail)

    def _on_notice(self, event: Notice) -> None:
        match event:
            case AcceptFailed():
                self._lines.accept_failed(event.error)
            case StunFailed():
                self._lines.stun_failed(event.error)
            case Unserved():
                # The log line follows when the connection ends.
                if self._certificates is not None:
                    self._certificates.missed(event)
            case Dropped():
                self._lines.dropped(event)
