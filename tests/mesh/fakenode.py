"""A fake node of a region: it accepts our node's link, and the test sends every later frame.

There is no thread: connections wait in the listener's backlog until the test accepts them.
"""

import os
import socket
import ssl
from pathlib import Path
from typing import Final, Self

from authority import Authority
from derpwire import HOST, SECONDS, Wire, WireError, new_key

from derper.protocol.decode import CLIENT_LIMITS, FromClient, decode_from_client
from derper.protocol.frames import ForwardPacket, PeerPresent, WatchConns
from derper.protocol.keys import MeshKey, NodePrivate, NodePublic
from derper.protocol.login import LOGIN_LIMITS, NONCE_LEN, ClientLogin, ServerInfo, ServerKey, server_info_frame
from derper.protocol.reader import FrameReader, RawFrame
from derper.protocol.upgrade import DerpUpgrade, RequestHead, decide

BACKLOG: Final = 16


class FakeNode:
    """A listener in place of a node, with a certificate for `host` stored in `folder`."""

    def __init__(
        self, folder: Path, authority: Authority, host: str = HOST, private: NodePrivate | None = None
    ) -> None:
        self.authority = authority
        self.private = new_key() if private is None else private
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue(folder, host)
        self._tls.load_cert_chain(folder / f"{host}.crt", folder / f"{host}.key")
        self._listener = socket.create_server((HOST, 0), backlog=BACKLOG)
        self._listener.settimeout(SECONDS)
        self.port: int = self._listener.getsockname()[1]

    def tcp(self) -> socket.socket:
        """Accept the next connection and send nothing."""
        sock, _ = self._listener.accept()
        sock.settimeout(SECONDS)
        return sock

    def connection(self) -> Wire:
        """Return the next connection after its TLS handshake."""
        return Wire(self._tls.wrap_socket(self.tcp(), server_side=True))

    def link(self) -> "Incoming":
        """Accept the next link and announce the dialling node to itself, as to any watcher."""
        link = Incoming(self.connection(), self.private)
        link.log_in()
        if link.next() != WatchConns():
            raise WireError("wanted the node to watch before all else")
        link.announce(link.key)
        return link

    def close(self) -> None:
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Incoming:
    """A link that a node of ours has dialled, seen from the other end."""

    def __init__(self, wire: Wire, private: NodePrivate) -> None:
        self.wire = wire
        self.head = RequestHead.parse(wire.head())
        self.key = NodePublic(bytes(32))  # the node's key, after its login
        self.mesh_key: MeshKey | None = None
        self._private = private
        self._reader = FrameReader(LOGIN_LIMITS)

    def greet(self) -> None:
        """Answer the upgrade and send ServerKey."""
        upgrade = decide(self.head)
        assert isinstance(upgrade, DerpUpgrade)
        key = self._private.public()
        self.wire.send(upgrade.answer(key) + ServerKey(key).encode())

    def log_in(self) -> None:
        """Go through the whole login."""
        self.greet()
        login = ClientLogin.open(self.frame(), self._private)
        self.key, self.mesh_key = login.key, login.info.mesh_key
        self.wire.send(server_info_frame(ServerInfo(), login.box, os.urandom(NONCE_LEN)))
        self._reader.allow(CLIENT_LIMITS)

    def frame(self) -> RawFrame:
        while (frame := self._reader.next_frame()) is None:
            data = self.wire.some()
            if not data:
                raise WireError("wanted a frame, got the end")
            self._reader.feed(data)
        return frame

    def next(self) -> FromClient | None:
        """Return the node's next frame."""
        return decode_from_client(self.frame(), mesh_peer=True)

    def announce(self, *keys: NodePublic) -> None:
        """Announce these keys."""
        self.wire.send(b"".join(PeerPresent(key).encode() for key in keys))

    def forwarded(self) -> ForwardPacket:
        """Return the next frame, which has to be a packet for a client here."""
        frame = self.next()
        if not isinstance(frame, ForwardPacket):
            raise WireError(f"wanted a forwarded packet, got {frame}")
        return frame

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()
