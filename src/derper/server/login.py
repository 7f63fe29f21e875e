"""Who is it? Opens a ClientInfo frame, and says what its sender is answered (docs/protocol/protocol.md, Login).

Whether it may stay is for `admission` to say, but for the names of applications that are refused, which need nobody.
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
    version: int  # of the protocol, as it says
    refusal: Answer | None  # it may not come in, whatever admission says
    answer: bytes  # the ServerInfo frame

    def presence(self, remote: Endpoint, *, not_ideal: bool) -> PeerPresent:
        """Return the PeerPresent frame by which other nodes learn of it."""
        flags = NO_FLAGS
        if self.mesh_peer:
            flags |= PeerFlags.MESH_PEER
        if self.is_prober:
            flags |= PeerFlags.PROBER
        if not_ideal:
            flags |= PeerFlags.NOT_IDEAL
        return PeerPresent(self.key, remote, flags or PeerFlags.REGULAR, self.app_name)


class Login:
    """The server's side of every login; `policy` is to be asked about every client but those that `open` decides."""

    def __init__(
        self, identity: Identity, policy: AdmissionPolicy, rates: ClientRates, refused_app_names: frozenset[str]
    ) -> None:
        self.policy = policy
        self._shared_keys = SharedKeyDeriver(identity.private)
        self._identity = identity
        self._refused_app_names = refused_app_names
        self._rates = rates
        self.server_key = identity.public
        self.greeting = ServerKey(identity.public).encode()  # the frame that goes out first

    def open(self, frame: RawFrame) -> LoggedIn:
        """Open the frame and see who sent it.

        Raises:
            ProtocolError: the frame is no ClientInfo that this server can open.
        """
        login = ClientLogin.open(frame, self._shared_keys)
        mesh_peer = admits_to_mesh(self._identity.mesh_key, login.info.mesh_key)
        info, refusal = login.info, None
        if not mesh_peer and info.app_name in self._refused_app_names:
            name = repr(info.app_name)
            told = f"the application {name} is not allowed here"
            refusal = refused(Cause.APP_NAME, f"disallowed app name {name}", told)
        server_info = ServerInfo() if mesh_peer else self._rates.server_info(login.key)
        answer = server_info_frame(server_info, login.box, os.urandom(NONCE_LEN))
        return LoggedIn(login.key, mesh_peer, info.is_prober, info.app_name, info.version, refusal, answer)
