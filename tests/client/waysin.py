"""The kinds of connection of `derper.client` to a server, ours or the reference's, and two connected clients."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from relays import GoDerper, Relay

from derper.client import Connected, DerpClient, Message, NodePrivate, Options
from derper.protocol.keys import MeshKey

MESH_KEY: Final = MeshKey.from_text("cd" * 32)
SECONDS: Final = 20.0
M = TypeVar("M", bound=Message)

WAYS: Final = ("plain", "tls13", "tls12", "ws", "wss")


@dataclass(frozen=True)
class Way:
    """A kind of connection to one relay."""

    relay: Relay
    name: str
    options: Options

    @property
    def url(self) -> str:
        return self.relay.url

    @property
    def biggest(self) -> int:
        """The biggest packet here: the reference closes on a WebSocket message over 32,768 bytes."""
        return 16_384 if self.options.websocket and isinstance(self.relay, GoDerper) else 65_536

    def client(self, private: NodePrivate | None = None, **changes: Any) -> DerpClient:  # noqa: ANN401  any option
        return DerpClient(self.url, private, replace(self.options, **changes))


def way_to(relay: Relay, name: str) -> Way:
    options = Options(websocket=name in ("ws", "wss"), cert_name=relay.pin)
    if name == "tls12":
        tls = ssl.create_default_context()
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
        options = replace(options, tls=tls)
    return Way(relay, name, options)


@asynccontextmanager
async def two_clients(way: Way) -> AsyncIterator[tuple[DerpClient, DerpClient]]:
    async with way.client() as alice, way.client() as bob:
        yield alice, bob


async def expect(client: DerpClient, kind: type[M]) -> M:
    """Return the next message other than Connected; it has to be of this kind."""
    while isinstance(message := await client.receive(), Connected) and kind is not Connected:
        pass
    assert isinstance(message, kind), message
    return message
