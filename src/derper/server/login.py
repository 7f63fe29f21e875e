"""Who is it? Opens a ClientInfo frame and decides whether its sender may relay (docs/protocol/protocol.md, Login)."""

import os
from dataclasses import dataclass

from derper.protocol.frames import NO_FLAGS, Endpoint, PeerFlags, PeerPresent
from derper.protocol.keys import NodePublic, admits_to_mesh
from derper.protocol.login import NONCE_LEN, ClientLogin, ServerInfo, ServerKey, server_info_frame
from derper.protocol.reader import RawFrame
from derper.server.identity import Identity


class RefusedError(Exception):
    """The client proved who it is and may not come in; the message says why, for the log."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """What the data plane needs to know of a client that may relay."""

    key: NodePublic
    mesh_peer: bool
    is_prober: bool
    app_name: str
    version: int  # of the protocol, as it says
    answer: bytes  # the ServerInfo frame

    def presence(self, remote: Endpoint, *, not_ideal: bool) -> PeerPresent:
        """Say how the other nodes of the region are told of it."""
        flags = NO_FLAGS
        if self.mesh_peer:
            flags |= PeerFlags.MESH_PEER
        if self.is_prober:
            flags |= PeerFlags.PROBER
        if not_ideal:
            flags |= PeerFlags.NOT_IDEAL
        return PeerPresent(self.key, remote, flags or PeerFlags.REGULAR, self.app_name)


class Login:
    """The server's side of every login."""

    def __init__(self, identity: Identity, refused_app_names: frozenset[str]) -> None:
        self._identity = identity
        self._refused_app_names = refused_app_names
        self._server_info = ServerInfo()
        self.server_key = identity.public
        self.greeting = ServerKey(identity.public).encode()  # the frame that goes out first

    def admit(self, frame: RawFrame) -> LoggedIn:
        """Open the frame and check its sender.

        Raises:
            ProtocolError: the frame is no ClientInfo that this server can open.
            RefusedError: it is, and its sender may not come in.
        """
        login = ClientLogin.open(frame, self._identity.private)
        mesh_peer = admits_to_mesh(self._identity.mesh_key, login.info.mesh_key)
        if not mesh_peer and login.info.app_name in self._refused_app_names:
            raise RefusedError(f"app name {login.info.app_name!r} is not allowed")
        answer = server_info_frame(self._server_info, login.box, os.urandom(NONCE_LEN))
        return LoggedIn(login.key, mesh_peer, login.info.is_prober, login.info.app_name, login.info.version, answer)
