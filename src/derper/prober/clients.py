"""The clients of probes: new ones for each run, two at a time.

Without a probe key their keys are random. With one they are derived from it, one for each probe and end, so that an
operator can allow them on a server that verifies its clients. No two concurrent runs share a key.
"""

import asyncio
import hashlib
import hmac
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Self

from derper.client import Connected, DerpClient, Options
from derper.config import Mesh
from derper.credentials.keys import load_mesh_key, load_or_make_key
from derper.errors import NetworkError
from derper.prober.config import ProberConfig
from derper.prober.trust import Trust
from derper.protocol.derpmap import Node
from derper.protocol.keys import KEY_LEN, MeshKey, NodePrivate

_LIMITED_PAUSE: Final = 0.01


class End(StrEnum):
    """One of a probe's two clients."""

    SENDER = "sender"
    RECEIVER = "receiver"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two clients that are logged in, with the facts of their logins."""

    sender: DerpClient
    receiver: DerpClient
    sender_connected: Connected
    receiver_connected: Connected

    async def send(self, packet: bytes) -> None:
        """Send from one to the other, as the relay's limit permits; raises `NetworkError` without a connection."""
        while not await self.sender.send(self.receiver.key, packet):
            if self.sender.connected is None:
                raise NetworkError("the sender's connection was lost")
            await asyncio.sleep(_LIMITED_PAUSE)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of the probing clients."""

    mesh_key: MeshKey | None
    secret: NodePrivate | None  # their own keys are derived from it; None: random keys

    @classmethod
    def load(cls, config: ProberConfig) -> Self:
        """Return the keys that the configuration names.

        Waits for a secrets server, so not within a running loop. Raises `ConfigError` if a key cannot be read.
        """
        secret = None if config.probe_key is None else load_or_make_key(config.probe_key)
        return cls(load_mesh_key(Mesh(config.mesh_key, ()), config.roots), secret)


class Clients:
    """Creates the clients."""

    def __init__(self, trust: Trust, keys: Keys) -> None:
        self._options = Options(mesh_key=keys.mesh_key, tls=trust.context, reconnect=False)
        self._secret = keys.secret

    def key(self, probe: str, end: End) -> NodePrivate:
        """Return the key of one end of a probe."""
        if self._secret is None:
            return NodePrivate.from_entropy(os.urandom(KEY_LEN))
        derived = hmac.digest(self._secret.raw, f"derpprobe {probe} {end}".encode(), hashlib.sha256)
        return NodePrivate.from_entropy(derived)

    @asynccontextmanager
    async def pair(self, probe: str, at: tuple[Node, Node], *, is_prober: bool = False) -> AsyncIterator[Pair]:
        """Log both clients in, the receiver first; raises `DerperError` if a login fails."""
        options = replace(self._options, is_prober=is_prober)
        async with AsyncExitStack() as stack:
            clients, connected = [], []
            for node, end in ((at[1], End.RECEIVER), (at[0], End.SENDER)):
                client = DerpClient(node, self.key(probe, end), options)
                stack.push_async_callback(client.close)
                connected.append(await client.connect())
                clients.append(client)
            yield Pair(clients[1], clients[0], connected[1], connected[0])
