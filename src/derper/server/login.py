"""Logins: opens a ClientInfo frame and builds the answer (docs/protocol/protocol.md, Login).

`admission` decides whether the client may stay. Refused application names are decided here, without a check.
"""

import os
from dataclasses import dataclass

from derper.dataplane import SharedKeyDeriver
from derper.protocol.frames import NO_FLAGS, Endpoint, PeerFlags, PeerPresent
from derper.protocol.keys import NodePublic, admits_to_mesh
from derper.protocol.login import NONCE_LEN, ClientLogin, ServerInfo, ServerKey, server_info_frame
from derper.protocol.reader import RawFrame
from derper.server.admission.answers import Answer, Cause, refused
from derper.server.admission.policy import AdmissionPolicy
from derper.server.identity import Identity
from derper.server.rates import ClientRates


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A client that has proved its key."""

    key: NodePublic
    mesh_peer: bool
    is_prober: bool
    app_name: str
    version: int  # of the protocol, as the client sent it
    refusal: Answer | None  # rejects the client before any admission check
    answer: bytes  # the ServerInfo frame

    def presence(self, remote: Endpoint, *, not_ideal: bool) -> PeerPresent:
        """Return the PeerPresent frame that announces the client to other nodes."""
        flags = NO_FLAGS
        if self.mesh_peer:
            flags |= PeerFlags.MESH_PEER
        if self.is_prober:
            flags |= PeerFlags.PROBER
        if not_ideal:
            flags |= PeerFlags.NOT_IDEAL
        return PeerPresent(self.key, remote, flags or PeerFlags.REGULAR, self.app_name)


class Login:
    """The server's side of every login; callers ask `policy` about each client that `open` did not refuse."""

    def __init__(
        self, identity: Identity, policy: AdmissionPolicy, rates: ClientRates, refused_app_names: frozenset[str]
    ) -> None:
        self.policy = policy
        self._shared_keys = SharedKeyDeriver(identity.private)
        self._identity = identity
        self._refused_app_names = refused_app_names
        self._rates = rates
        self.server_key = identity.public
        self.greeting = ServerKey(identity.public).encode()  # the first frame to the client

    def open(self, frame: RawFrame) -> LoggedIn:
        """Open a client's ClientInfo frame and return its identity and the answer.

        Raises:
            ProtocolError: The frame is not a ClientInfo that this server can open.
        """
        login = ClientLogin.open(frame, self._shared_keys)
        mesh_peer = admits_to_mesh(self._identity.mesh_key, login.info.mesh_key)
        info, refusal = login.info, None
        if not mesh_peer and info.app_name in self._refused_app_names:
            name = repr(info.app_name)
            user_message = f"the application {name} is not allowed here"
            refusal = refused(Cause.APP_NAME, f"disallowed app name {name}", user_message)
        server_info = ServerInfo() if mesh_peer else self._rates.server_info(login.key)
        answer = server_info_frame(server_info, login.box, os.urandom(NONCE_LEN))
        return LoggedIn(login.key, mesh_peer, info.is_prober, info.app_name, info.version, refusal, answer)
