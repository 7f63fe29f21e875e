"""The same frames to both servers: the same answers, and every counter of /debug/varz has moved by as much.

A story is told to ours and then to the reference. What it returns is what its clients were answered, with keys by their
names; the counters are read before it and at its end while everybody is still there. When all have left, the gauges are
what they were.
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
"""What depends on time, on how writes are grouped, or on the program."""

GAUGES: Final = re.compile(r"derp_(current_conn|current_home|current_notideal|clients|watchers|current_dup)")


class Company:
    """Those who come to one server, by name."""

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
        """How far each sample is from where it was at first; those that are there again are left out."""
        now = self.samples()
        steps = {name: value - self._was.get(name, 0) for name, value in now.items()}
        return {name: step for name, step in steps.items() if step}

    def named(self, name: str) -> NodePublic:
        """The key of somebody who is not there."""
        return self.key(name).public()

    def key(self, name: str) -> NodePrivate:
        private = new_key()
        self._names[private.public()] = name
        return private

    def join(self, name: str, *, key: NodePrivate | None = None, info: ClientInfo | None = None) -> Client:
        client = Client.join(self._door, key or self.key(name), info)
        self._here.append(client)
        return client

    def knock(self) -> Client:
        """Somebody who has been greeted, and has said nothing."""
        client = Client(self._door.connect(), self.key("a"))
        self._here.append(client)
        client.upgrade()
        return client

    def join_mesh(self, name: str) -> Client:
        return self.join(name, info=ClientInfo(mesh_key=MESH_KEY))

    def heard(self, client: Client) -> list[str]:
        """What a client has been sent, until now or until its end."""
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

    def heard_until(self, client: Client, frames: int) -> list[str]:
        """The next frames of a client, which have to come, in no order."""
        came = [client.frame() for _ in range(frames)]
        return sorted(f"{frame.type:#x} {self._say(bytes(frame.payload))}" for frame in came)

    def _say(self, payload: bytes) -> str:
        for key, name in self._names.items():
            payload = payload.replace(key.raw, f"<{name}>".encode())
        return re.sub(rb"(\xff\xff\x7f\0\0\x01)..", rb"\1<port>", payload, flags=re.DOTALL).hex()

    def leave(self, client: Client) -> None:
        """Close a connection, and wait until the server has seen that."""
        before = self.samples()["derp_current_connections"]
        client.wire.close()
        self._wait(lambda: self.samples()["derp_current_connections"] < before)

    def all_leave(self) -> None:
        for client in self._here:
            client.wire.close()
        self.settle()

    def settle(self) -> None:
        """Wait until the server has seen that nobody is there any more."""
        self._wait(lambda: not any(map(GAUGES.match, self.moved())))

    def _wait(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not until():
            assert time.monotonic() < deadline, self.moved()


Story = Callable[[Company], list[list[str]]]
STORIES: Final[list[Story]] = []


def story(told: Story) -> Story:
    STORIES.append(told)
    return told


def raw(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BI", kind, len(payload)) + payload


@story
def packets_of_all_sizes_arrive_and_one_byte_more_ends_the_sender(company: Company) -> list[list[str]]:
    a, b = company.join("a"), company.join("b")
    for size in (0, 1, 61, 62, 65_535, 65_536):
        a.send(b.key, bytes(size))
    a.send(b.key, DISCO)
    heard = [company.heard(a), company.heard_until(b, 7)]
    a.wire.offer(raw(0x04, b.key.raw + bytes(65_537)))
    return [*heard, company.heard(a), company.heard_until(b, 1)]


@story
def what_has_no_receiver_is_dropped_and_at_most_three_disco_packets_are_answered(company: Company) -> list[list[str]]:
    a = company.join("a")
    for packet in (DISCO[:61], b"", bytes(1_000), b"\0" + DISCO, *[DISCO] * 6):
        a.send(company.named("nobody"), packet)
    a.send(NodePublic(bytes(32)), DISCO)
    return [company.heard(a)]


@story
def frames_of_a_wrong_length_end_their_senders(company: Company) -> list[list[str]]:
    wrong = (
        *(raw(0x04, bytes(size)) for size in (0, 31)),
        *(raw(0x07, bytes(size)) for size in (0, 2)),
        *(raw(0x12, bytes(size)) for size in (0, 7, 8, 9, 1_000, 1_001)),
    )
    heard = []
    for frame in wrong:
        client = company.join("a")
        client.wire.offer(frame)
        heard.append(company.heard(client))
    return heard


@story
def unknown_frames_are_thrown_away_up_to_their_limit(company: Company) -> list[list[str]]:
    heard = []
    for frame in (*(raw(kind, bytes(100)) for kind in (0, 1, 2, 3, 5, 6, 8, 9, 0xB, 0x13, 0x14, 0x15, 0xFF)),
                  raw(0x77, bytes(65_568)), raw(0x77, bytes(65_569))):  # fmt: skip
        client = company.join("a")
        client.wire.offer(frame)
        heard.append(company.heard(client))
    return heard


@story
def what_only_a_mesh_peer_may_send_ends_others_and_in_a_wrong_length_itself(company: Company) -> list[list[str]]:
    frames = [raw(0x0A, bytes(63)), raw(0x0A, bytes(64)), raw(0x10, b"x"), raw(0x10), raw(0x11, bytes(31)),
              raw(0x11, bytes(33)), raw(0x11, bytes(32))]  # fmt: skip
    heard = []
    for join in (company.join, company.join_mesh):
        for frame in frames:
            client = join("a")
            client.wire.offer(frame)
            heard.append(company.heard(client))
            client.wire.close()
            company.settle()
    return heard


@story
def a_home_is_counted_while_its_client_is_there(company: Company) -> list[list[str]]:
    a, b = company.join("a"), company.join("b")
    for home in (True, True, False, False, True):
        a.wire.send(NotePreferred(home).encode())
    b.wire.send(raw(0x07, b"\x02"))
    return [company.heard(a), company.heard(b)]


@story
def of_several_connections_of_a_key_the_one_that_spoke_last_receives(company: Company) -> list[list[str]]:
    sender, first = company.join("sender"), company.join("a")
    second, third = (company.join("a", key=first.private) for _ in range(2))
    heard = []
    for speaker in (third, first, second):
        if speaker is not third:
            speaker.ping()
        sender.send(first.key, b"one")
        heard.append(company.heard_until(speaker, 1))
    company.leave(second)
    sender.send(first.key, b"two")
    return [*heard, company.heard_until(first, 1)]


@story
def who_got_packets_is_told_once_all_connections_of_the_key_are_gone(company: Company) -> list[list[str]]:
    a, b = company.join("a"), company.join("b")
    twin = company.join("a", key=a.private)
    for packet in (b"one", b"two"):
        twin.send(b.key, packet)
    heard = [company.heard_until(b, 2)]
    company.leave(a)
    heard.append(company.heard(b))
    company.leave(twin)
    heard.append(company.heard(b))
    b.send(a.key, DISCO)
    return [*heard, company.heard(b)]


@story
def who_sent_but_got_nothing_is_not_told(company: Company) -> list[list[str]]:
    a, b = company.join("a"), company.join("b")
    a.send(b.key, b"one")
    heard = [company.heard_until(b, 1)]
    company.leave(b)
    return [*heard, company.heard(a)]


@story
def a_forwarded_packet_is_delivered_here_or_nowhere(company: Company) -> list[list[str]]:
    peer, a = company.join_mesh("peer"), company.join("a")
    source, nobody = company.named("source"), company.named("nobody")
    for packet in (b"", b"one", bytes(65_536), DISCO):
        peer.wire.send(ForwardPacket(source, a.key, packet).encode())
    for packet in (b"one", *[DISCO] * 6):
        peer.wire.send(ForwardPacket(source, nobody, packet).encode())
    heard = [company.heard(peer), company.heard_until(a, 4)]
    peer.wire.offer(raw(0x0A, source.raw + a.key.raw + bytes(65_537)))
    return [*heard, company.heard(peer)]


@story
def a_watcher_is_told_of_who_is_there_comes_and_goes(company: Company) -> list[list[str]]:
    present = [company.join("a"), company.join("b", info=ClientInfo(is_prober=True)), company.join_mesh("other")]
    watcher = company.join_mesh("watcher")
    watcher.wire.send(WatchConns().encode())
    heard = [company.heard_until(watcher, 4)]
    company.join("c", info=ClientInfo(app_name="x" * 32))
    twin = company.join("a", key=present[0].private)
    heard.append(company.heard_until(watcher, 2))
    company.leave(twin)
    for client in present:
        company.leave(client)
    heard += [company.heard_until(watcher, 3), company.heard(watcher)]
    company.leave(watcher)
    return heard


@story
def a_closed_peer_is_gone_on_every_connection(company: Company) -> list[list[str]]:
    peer, a, b = company.join_mesh("peer"), company.join("a"), company.join("b")
    twin = company.join("a", key=a.private)
    a.send(b.key, b"one")
    heard = [company.heard_until(b, 1)]
    peer.wire.send(ClosePeer(a.key).encode() * 2)
    heard += [[client.wire.rest().hex()] for client in (a, twin)]
    return [*heard, company.heard_until(b, 1), company.heard(peer)]


@story
def who_does_not_log_in_is_accepted_and_no_more(company: Company) -> list[list[str]]:
    heard = []
    for frame in (raw(2, bytes(55)), raw(2, bytes(56)), raw(4, bytes(56)), raw(0x12, bytes(8))):
        client = company.knock()
        client.wire.offer(frame)
        heard.append([client.wire.rest().hex()])
    return heard


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, Relay]]:
    folder = tmp_path_factory.mktemp("both")
    (folder / "mesh.key").write_text(MESH_KEY.to_text())
    flags = ("-mesh-psk-file", str(folder / "mesh.key"))
    with OurDerper(folder / "ours", flags=flags) as ours, GoDerper(folder / "go", flags=flags) as go:
        yield ours, go


@pytest.mark.parametrize("told", STORIES, ids=lambda told: told.__name__)
def test_both_answer_and_count_alike(pair: tuple[Relay, Relay], told: Story) -> None:
    came = []
    for relay in pair:
        with Company(relay) as company:
            came.append((told(company), company.moved()))
            company.all_leave()
    ours, reference = came
    assert ours == reference
