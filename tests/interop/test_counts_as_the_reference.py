"""The same frames to both servers: the same answers, and equal changes of every counter of /debug/varz.

A scenario runs with our server and then with the reference. It returns its clients' received frames, with names for the
keys. The counters are read before it and at its end, while all clients are connected. After all have left, the gauges
have their first values.
"""

import re
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final, Self
from urllib.request import urlopen

import pytest
from derpwire import SECONDS, Client, RelayAddress, new_key
from relays import GoDerper, OurDerper, Relay

from derper.protocol.frames import ClosePeer, ForwardPacket, NotePreferred, SendPacket, WatchConns
from derper.protocol.keys import MeshKey, NodePrivate, NodePublic
from derper.protocol.login import ClientInfo

MESH_KEY: Final = MeshKey(bytes(range(32)))
DISCO: Final = b"TS\xf0\x9f\x92\xac" + bytes(56)
VARYING: Final = re.compile(
    r"derp_(average_queue|buffered_write|mesh_update|tcp_rtt|current_file|memstats)|derper_|stun_kernel|go|memstats|"
    r"process_|promhttp|uptime|node_boot|version"
)
"""Samples that depend on time, on the grouping of writes, or on the program."""

GAUGES: Final = re.compile(r"derp_(current_conn|current_home|current_notideal|clients|watchers|current_dup)")


class Group:
    """The clients of one server, by name."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._door = RelayAddress(relay.port)
        self._names: dict[NodePublic, str] = {}
        self._here: list[Client] = []
        self._was = self.samples()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._here:
            client.wire.close()

    def samples(self) -> dict[str, float]:
        with urlopen(f"{self._relay.url}/debug/varz") as answer:  # noqa: S310  our own URL
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs if not VARYING.match(name)}

    def moved(self) -> dict[str, float]:
        """Return the change of each sample since the start, without unchanged ones."""
        now = self.samples()
        steps = {name: value - self._was.get(name, 0) for name, value in now.items()}
        return {name: step for name, step in steps.items() if step}

    def named(self, name: str) -> NodePublic:
        """Return the key of a client that is not connected."""
        return self.key(name).public()

    def key(self, name: str) -> NodePrivate:
        private = new_key()
        self._names[private.public()] = name
        return private

    def join(self, name: str, *, key: NodePrivate | None = None, info: ClientInfo | None = None) -> Client:
        client = Client.join(self._door, key or self.key(name), info)
        self._here.append(client)
        return client

    def greeted(self) -> Client:
        """Connect a client that gets ServerKey and sends nothing."""
        client = Client(self._door.connect(), self.key("a"))
        self._here.append(client)
        client.upgrade()
        return client

    def join_mesh(self, name: str) -> Client:
        return self.join(name, info=ClientInfo(mesh_key=MESH_KEY))

    def received(self, client: Client) -> list[str]:
        """Return the frames that a client got, until now or until its end."""
        told = []
        client.wire.offer(SendPacket(client.key, b"the end.").encode())
        try:
            while not (frame := client.frame()).payload.endswith(b"the end."):
                told.append(f"{frame.type:#x} {self._say(bytes(frame.payload))}")
        except AssertionError as error:
            if "and the end" not in str(error):
                raise
            told.append("the end")
        return told

    def received_until(self, client: Client, frames: int) -> list[str]:
        """Return this number of next frames of a client, sorted."""
        came = [client.frame() for _ in range(frames)]
        return sorted(f"{frame.type:#x} {self._say(bytes(frame.payload))}" for frame in came)

    def _say(self, payload: bytes) -> str:
        for key, name in self._names.items():
            payload = payload.replace(key.raw, f"<{name}>".encode())
        return re.sub(rb"(\xff\xff\x7f\0\0\x01)..", rb"\1<port>", payload, flags=re.DOTALL).hex()

    def leave(self, client: Client) -> None:
        """Close a connection, and wait until the server has noticed."""
        before = self.samples()["derp_current_connections"]
        client.wire.close()
        self._wait(lambda: self.samples()["derp_current_connections"] < before)

    def all_leave(self) -> None:
        for client in self._here:
            client.wire.close()
        self.settle()

    def settle(self) -> None:
        """Wait until the server has noticed that no client is connected."""
        self._wait(lambda: not any(map(GAUGES.match, self.moved())))

    def _wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not until():
            assert time.monotonic() < deadline, self.moved()


Scenario = Callable[[Group], list[list[str]]]
SCENARIOS: Final[list[Scenario]] = []


def scenario(run: Scenario) -> Scenario:
    SCENARIOS.append(run)
    return run


def raw(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BI", kind, len(payload)) + payload


@scenario
def packets_of_all_sizes_arrive_and_one_byte_more_ends_the_sender(group: Group) -> list[list[str]]:
    a, b = group.join("a"), group.join("b")
    for size in (0, 1, 61, 62, 65_535, 65_536):
        a.send(b.key, bytes(size))
    a.send(b.key, DISCO)
    received = [group.received(a), group.received_until(b, 7)]
    a.wire.offer(raw(0x04, b.key.raw + bytes(65_537)))
    return [*received, group.received(a), group.received_until(b, 1)]


@scenario
def packets_without_a_receiver_are_dropped_and_at_most_three_disco_packets_answered(group: Group) -> list[list[str]]:
    a = group.join("a")
    for packet in (DISCO[:61], b"", bytes(1_000), b"\0" + DISCO, *[DISCO] * 6):
        a.send(group.named("nobody"), packet)
    a.send(NodePublic(bytes(32)), DISCO)
    return [group.received(a)]


@scenario
def frames_of_a_wrong_length_end_their_senders(group: Group) -> list[list[str]]:
    wrong = (
        *(raw(0x04, bytes(size)) for size in (0, 31)),
        *(raw(0x07, bytes(size)) for size in (0, 2)),
        *(raw(0x12, bytes(size)) for size in (0, 7, 8, 9, 1_000, 1_001)),
    )
    received = []
    for frame in wrong:
        client = group.join("a")
        client.wire.offer(frame)
        received.append(group.received(client))
    return received


@scenario
def unknown_frames_are_ignored_up_to_their_limit(group: Group) -> list[list[str]]:
    received = []
    for frame in (*(raw(kind, bytes(100)) for kind in (0, 1, 2, 3, 5, 6, 8, 9, 0xB, 0x13, 0x14, 0x15, 0xFF)),
                  raw(0x77, bytes(65_568)), raw(0x77, bytes(65_569))):  # fmt: skip
        client = group.join("a")
        client.wire.offer(frame)
        received.append(group.received(client))
    return received


@scenario
def mesh_frames_end_clients_and_with_a_wrong_length_mesh_peers(group: Group) -> list[list[str]]:
    frames = [raw(0x0A, bytes(63)), raw(0x0A, bytes(64)), raw(0x10, b"x"), raw(0x10), raw(0x11, bytes(31)),
              raw(0x11, bytes(33)), raw(0x11, bytes(32))]  # fmt: skip
    received = []
    for join in (group.join, group.join_mesh):
        for frame in frames:
            client = join("a")
            client.wire.offer(frame)
            received.append(group.received(client))
            client.wire.close()
            group.settle()
    return received


@scenario
def a_home_is_counted_while_its_client_is_connected(group: Group) -> list[list[str]]:
    a, b = group.join("a"), group.join("b")
    for home in (True, True, False, False, True):
        a.wire.send(NotePreferred(home).encode())
    b.wire.send(raw(0x07, b"\x02"))
    return [group.received(a), group.received(b)]


@scenario
def the_connection_of_a_key_that_sent_last_receives(group: Group) -> list[list[str]]:
    sender, first = group.join("sender"), group.join("a")
    second, third = (group.join("a", key=first.private) for _ in range(2))
    received = []
    for speaker in (third, first, second):
        if speaker is not third:
            speaker.ping()
        sender.send(first.key, b"one")
        received.append(group.received_until(speaker, 1))
    group.leave(second)
    sender.send(first.key, b"two")
    return [*received, group.received_until(first, 1)]


@scenario
def receivers_are_notified_after_all_connections_of_a_sender_are_gone(group: Group) -> list[list[str]]:
    a, b = group.join("a"), group.join("b")
    twin = group.join("a", key=a.private)
    for packet in (b"one", b"two"):
        twin.send(b.key, packet)
    received = [group.received_until(b, 2)]
    group.leave(a)
    received.append(group.received(b))
    group.leave(twin)
    received.append(group.received(b))
    b.send(a.key, DISCO)
    return [*received, group.received(b)]


@scenario
def a_sender_that_received_nothing_is_not_notified(group: Group) -> list[list[str]]:
    a, b = group.join("a"), group.join("b")
    a.send(b.key, b"one")
    received = [group.received_until(b, 1)]
    group.leave(b)
    return [*received, group.received(a)]


@scenario
def a_forwarded_packet_is_delivered_here_or_dropped(group: Group) -> list[list[str]]:
    peer, a = group.join_mesh("peer"), group.join("a")
    source, nobody = group.named("source"), group.named("nobody")
    for packet in (b"", b"one", bytes(65_536), DISCO):
        peer.wire.send(ForwardPacket(source, a.key, packet).encode())
    for packet in (b"one", *[DISCO] * 6):
        peer.wire.send(ForwardPacket(source, nobody, packet).encode())
    received = [group.received(peer), group.received_until(a, 4)]
    peer.wire.offer(raw(0x0A, source.raw + a.key.raw + bytes(65_537)))
    return [*received, group.received(peer)]


@scenario
def a_watcher_gets_connected_new_and_removed_clients(group: Group) -> list[list[str]]:
    present = [group.join("a"), group.join("b", info=ClientInfo(is_prober=True)), group.join_mesh("other")]
    watcher = group.join_mesh("watcher")
    watcher.wire.send(WatchConns().encode())
    received = [group.received_until(watcher, 4)]
    group.join("c", info=ClientInfo(app_name="x" * 32))
    twin = group.join("a", key=present[0].private)
    received.append(group.received_until(watcher, 2))
    group.leave(twin)
    for client in present:
        group.leave(client)
    received += [group.received_until(watcher, 3), group.received(watcher)]
    group.leave(watcher)
    return received


@scenario
def a_closed_peer_is_gone_on_every_connection(group: Group) -> list[list[str]]:
    peer, a, b = group.join_mesh("peer"), group.join("a"), group.join("b")
    twin = group.join("a", key=a.private)
    a.send(b.key, b"one")
    received = [group.received_until(b, 1)]
    peer.wire.send(ClosePeer(a.key).encode() * 2)
    received += [[client.wire.rest().hex()] for client in (a, twin)]
    return [*received, group.received_until(b, 1), group.received(peer)]


@scenario
def a_connection_without_a_login_is_only_counted_as_accepted(group: Group) -> list[list[str]]:
    received = []
    for frame in (raw(2, bytes(55)), raw(2, bytes(56)), raw(4, bytes(56)), raw(0x12, bytes(8))):
        client = group.greeted()
        client.wire.offer(frame)
        received.append([client.wire.rest().hex()])
    return received


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, Relay]]:
    folder = tmp_path_factory.mktemp("both")
    (folder / "mesh.key").write_text(MESH_KEY.to_text())
    flags = ("-mesh-psk-file", str(folder / "mesh.key"))
    with OurDerper(folder / "ours", flags=flags) as ours, GoDerper(folder / "go", flags=flags) as go:
        yield ours, go


@pytest.mark.parametrize("run", SCENARIOS, ids=lambda run: run.__name__)
def test_both_servers_have_the_same_answers_and_counts(pair: tuple[Relay, Relay], run: Scenario) -> None:
    came = []
    for relay in pair:
        with Group(relay) as group:
            came.append((run(group), group.moved()))
            group.all_leave()
    ours, reference = came
    assert ours == reference
