"""Regions of nodes, ours and the reference's, each a separate process on a port of 127.0.0.1.

A node is one of ours or the Go server; tests start, stop and use both in the same way. All share a mesh key, have
certificates of one authority, and list every node of the region, themselves included. Our nodes dial a lost link again
after 0.2 s, the reference after its usual 5 s.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, permutations
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self

from authority import Authority
from derpwire import HOST, SECONDS, Client, RelayAddress, WireError
from relays import GoDerper, free_port
from serving import Server, client_context

from derper.protocol.frames import WatchConns
from derper.protocol.keys import MeshKey, NodePrivate
from derper.protocol.login import ClientInfo

MESH_KEY: Final = MeshKey.from_text("ab" * 32)
RETRY_SECONDS: Final = 0.2
INTRODUCTION_SECONDS: Final = 15.0  # the reference dials again after 5 s
_PATIENCE: Final = 0.02

Tuning = Mapping[str, Mapping[str, Any]]


class OurNode(Server):
    """A node of ours.

    Args:
        mesh_with: the flag's value.
        tuning: see `meshed_derper.py`.
        before: words before the command.
    """

    def __init__(  # noqa: PLR0913  all in which nodes differ
        self,
        folder: Path,
        port: int,
        authority: Authority,
        mesh_with: str,
        *flags: str,
        mesh_key: MeshKey | None = MESH_KEY,
        hostname: str = HOST,
        tuning: Tuning | None = None,
        before: Sequence[str] = (),
    ) -> None:
        authority.issue(folder, hostname)
        super().__init__(
            folder, "-a", f"{HOST}:{port}", "-mesh-with", mesh_with, *flags,
            tls=True, hostname=hostname, mesh_key=mesh_key, before=("env", f"SSL_CERT_FILE={authority.file}", *before),
        )  # fmt: skip
        settings = {"plane": {}, **(tuning or {})}
        settings["mesh"] = {"RETRY_SECONDS": RETRY_SECONDS, **settings.get("mesh", {})}
        program = self.command.index("-m")
        self.command[program : program + 2] = [str(Path(__file__).with_name("meshed_derper.py")), json.dumps(settings)]

    def start(self) -> Self:
        """Start the node, also again after its end; its log starts empty."""
        self._lines = []
        self._ended = False
        return super().start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def key(self) -> str:
        """The node's own key, as logged."""
        return self.logged(r"event=serving .*public_key=(\S+)")[1]

    def knows(self, keys: int) -> dict[str, Any]:
        """Wait until the node knows exactly `keys` keys in the region; return its counters then."""
        while (counted := self.counted())["keys_total"] != keys:
            pass
        return counted


class GoNode(GoDerper):
    """The reference as a node."""

    def __init__(
        self, folder: Path, port: int, authority: Authority, mesh_with: str, *flags: str, hostname: str = HOST
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        authority.issue(folder / "certs", hostname)
        mesh_key = folder / "mesh.key"
        mesh_key.write_text(MESH_KEY.to_text())
        flags = ("-mesh-psk-file", str(mesh_key), "-mesh-with", mesh_with, "-hostname", hostname, *flags)
        super().__init__(folder, tls=True, flags=flags, env={"SSL_CERT_FILE": str(authority.file)})
        self.port = port
        self.door = RelayAddress(port, client_context(folder / "certs" / f"{hostname}.crt"))

    def start(self) -> None:
        """Start the node, always on the same port."""
        self._launch()
        if not self._listens_in_time():
            raise AssertionError(f"the reference did not start:\n{self.log()[-4000:]}")


Node = OurNode | GoNode


class Region:
    """Several nodes, indexed as in `kinds`: "ours", "ours2" (with two shards) or "go"."""

    def __init__(self, folder: Path, *kinds: str, tuning: Tuning | None = None) -> None:
        self.kinds = kinds
        self._clients: list[Client] = []
        ports: list[int] = []
        while len(ports) < len(kinds):
            ports = sorted({*ports, free_port()})
        authority = Authority(folder)
        everybody = ",".join(f"{HOST}:{port}" for port in ports)
        self.nodes: list[Node] = [
            GoNode(folder / str(at), port, authority, everybody)
            if kind == "go"
            else OurNode(
                folder / str(at), port, authority, everybody, "-shards", "2" if kind == "ours2" else "1", tuning=tuning
            )
            for at, (kind, port) in enumerate(zip(kinds, ports, strict=True))
        ]

    def ours(self, at: int) -> OurNode:
        """Return a node, which has to be one of ours."""
        node = self.nodes[at]
        assert isinstance(node, OurNode)
        return node

    def join(self, at: int, key: NodePrivate | None = None, info: ClientInfo | None = None) -> Client:
        """Log in a client at a node; it is closed after the test."""
        client = Client.join(self.nodes[at].door, key, info)
        self._clients.append(client)
        return client

    def join_mesh(self, at: int, *, watch: bool = False) -> Client:
        """Log in a client with the mesh key, as a monitoring tool does."""
        client = self.join(at, info=ClientInfo(mesh_key=MESH_KEY, can_ack_pings=True))
        if watch:
            client.wire.send(WatchConns().encode())
        return client

    def send_home(self) -> None:
        """Close all clients' connections."""
        for client in self._clients:
            client.wire.close()
        self._clients.clear()

    def meet(self) -> None:
        """Wait until every node forwards to all others."""
        clients = [self.join(at) for at in range(len(self.nodes))]
        for one, other in permutations(clients, 2):
            introduce(one, other)
        self.send_home()

    def __enter__(self) -> Self:
        # The reference waits long before it dials again, so it starts after the others.
        for node in sorted(self.nodes, key=lambda node: isinstance(node, GoNode)):
            node.start()
        self.meet()
        return self

    def __exit__(self, *_: object) -> None:
        self.send_home()
        codes = [node.stop() for node in self.nodes]
        assert not any(codes), f"exit codes after SIGTERM: {codes}"


def introduce(sender: Client, receiver: Client) -> None:
    """Send until a packet arrives and none of the sent packets is in flight any more.

    Another node learns of a client a moment after its login; until then it cannot forward the client's packets.
    """
    deadline = monotonic() + INTRODUCTION_SECONDS
    for _ in count():
        sender.send(receiver.key, b"are you there?")
        if arrives_within(receiver, _PATIENCE):
            break
        assert monotonic() < deadline, f"no packet came through to {receiver.key} in {INTRODUCTION_SECONDS:.0f} s"
    sender.send(receiver.key, b"you are!")
    while receiver.packet().packet != b"you are!":
        pass


def arrives_within(receiver: Client, seconds: float) -> bool:
    """Return whether a packet arrives in this time; any other frame is an error."""
    with patience(receiver, seconds):
        try:
            receiver.packet()
        except WireError as error:
            if "neither sent anything nor closed" not in str(error):
                raise
            return False
    return True


@contextmanager
def patience(client: Client, seconds: float) -> Iterator[None]:
    """Limit each read to this number of seconds."""
    client.wire.sock.settimeout(seconds)
    try:
        yield
    finally:
        client.wire.sock.settimeout(SECONDS)
