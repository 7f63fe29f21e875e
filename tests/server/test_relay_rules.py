"""The rules in docs/protocol/relay.md, as clients of the running server see them."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from derpwire import Client, new_key
from serving import Server

from derper.protocol.frames import NotePreferred, PeerGone, PeerGoneReason, Ping, Pong, RecvPacket, SendPacket
from derper.protocol.keys import NodePublic

pytest_plugins = ["hall"]

DISCO = b"TS\xf0\x9f\x92\xac" + bytes(56)
QUEUE = 32  # packets
SMALL_BUFFER = 8_192  # receive buffer in bytes of a client that does not read


def join(relay: Server) -> Client:
    return Client.join(relay.door)


def numbered(frames: list[RecvPacket]) -> list[int]:
    return [int.from_bytes(frame.packet[:4], "big") for frame in frames]


class TestDuplicates:
    @pytest.fixture
    def sender(self, relay: Server) -> Iterator[Client]:
        with join(relay) as client:
            yield client

    def test_the_newest_connection_of_a_key_gets_its_packets(self, relay: Server, sender: Client) -> None:
        with join(relay) as old, Client.join(relay.door, old.private) as new:
            sender.send(old.key, b"one")
            assert new.packet().packet == b"one"
            assert new.fence() == []

    def test_the_connection_that_sent_last_gets_the_packets(self, relay: Server, sender: Client) -> None:
        with join(relay) as first, Client.join(relay.door, first.private) as second:
            for speaker in (first, second, first):
                speaker.ping()
                sender.send(first.key, b"for who spoke")
                assert speaker.packet().packet == b"for who spoke"

    def test_when_the_active_connection_leaves_the_next_latest_sender_is_active(
        self, relay: Server, sender: Client
    ) -> None:
        with join(relay) as first, Client.join(relay.door, first.private) as second:
            third = Client.join(relay.door, first.private)
            second.ping()
            first.ping()
            third.ping()
            since = relay.mark()
            third.wire.close()
            relay.logged(rf'event="client gone" key={first.key}', since)
            sender.send(first.key, b"over to you")
            assert first.packet().packet == b"over to you"
            assert second.fence() == []

    def test_a_key_is_gone_only_after_its_last_connection_leaves(self, relay: Server, sender: Client) -> None:
        first = join(relay)
        second = Client.join(relay.door, first.private)
        second.send(sender.key, b"hello")
        assert sender.packet().packet == b"hello"
        since = relay.mark()
        second.wire.close()
        relay.logged(rf'event="client gone" key={first.key}', since)
        assert sender.fence() == []
        first.wire.close()
        assert sender.next() == PeerGone(first.key, PeerGoneReason.DISCONNECTED)


class TestPeerGone:
    def test_receivers_of_a_peers_packets_are_notified_when_it_leaves(self, relay: Server) -> None:
        with join(relay) as told, join(relay) as untold:
            with join(relay) as peer:
                peer.send(told.key, b"hello")
                assert told.packet().source == peer.key
                untold.send(peer.key, b"to it is not from it")
                assert peer.packet().source == untold.key
            assert told.next() == PeerGone(peer.key, PeerGoneReason.DISCONNECTED)
            assert untold.fence() == []

    def test_receivers_are_notified_again_when_a_returned_peer_leaves_again(self, relay: Server) -> None:
        key = new_key()
        with join(relay) as told:
            for _ in range(3):
                with Client.join(relay.door, key) as peer:
                    peer.send(told.key, b"here I am")
                    assert told.packet().source == peer.key
                assert told.next() == PeerGone(peer.key, PeerGoneReason.DISCONNECTED)

    def test_receivers_are_not_notified_of_a_returned_peer_that_sent_nothing(self, relay: Server) -> None:
        key = new_key()
        with join(relay) as told:
            with Client.join(relay.door, key) as peer:
                peer.send(told.key, b"here I am")
                assert told.packet().source == peer.key
            assert told.next() == PeerGone(peer.key, PeerGoneReason.DISCONNECTED)
            since = relay.mark()
            with Client.join(relay.door, key):
                pass
            relay.logged(rf'event="client gone" key={peer.key}', since)
            assert told.fence() == []


class TestNotHere:
    def test_only_disco_packets_are_answered(self, relay: Server) -> None:
        nobody = new_key().public()
        with join(relay) as client:
            client.send(nobody, bytes(100))
            client.send(nobody, DISCO[:-1])
            assert client.fence() == []
            client.send(nobody, DISCO)
            assert client.fence() == [PeerGone(nobody, PeerGoneReason.NOT_HERE)]

    def test_three_answers_are_sent_at_once_and_then_one_a_second(self, either_relay: Server) -> None:
        nobody = new_key().public()
        gone = PeerGone(nobody, PeerGoneReason.NOT_HERE)
        with join(either_relay) as client, join(either_relay) as another:
            began = time.monotonic()
            for _ in range(10):
                client.send(nobody, DISCO)
            assert client.fence() == [gone] * 3
            # The limit applies to each sender separately.
            another.send(nobody, DISCO)
            assert another.fence() == [gone]
            told: list[object] = []
            while not told:
                client.send(nobody, DISCO)
                told = list(client.fence())
            assert told == [gone]
            assert 0.9 <= time.monotonic() - began < 2.5


class TestPing:
    def test_a_flood_that_is_read_is_answered_in_full_and_in_order(self, relay: Server) -> None:
        with join(relay) as client:
            for batch in range(20):
                data = [(batch * 500 + number).to_bytes(8, "big") for number in range(500)]
                client.wire.send(b"".join(Ping(each).encode() for each in data))
                assert [client.next() for _ in data] == [Pong(each) for each in data]

    def test_an_unread_flood_uses_bounded_memory_and_loses_only_pongs(self, either_relay: Server) -> None:
        with Client.join(either_relay.door, receive_buffer=SMALL_BUFFER) as client, join(either_relay) as friend:
            memory = either_relay.memory()
            flood = b"".join(Ping(number.to_bytes(8, "big")).encode() for number in range(100_000))
            client.wire.send(flood + SendPacket(friend.key, b"made it").encode())
            assert friend.packet().packet == b"made it"
            assert either_relay.memory() - memory < 8 << 20
            # The answers are in order; then the answers to later pings follow.
            answered = [frame for frame in client.fence() if isinstance(frame, Pong)]
            assert [int.from_bytes(pong.data, "big") for pong in answered[:100]] == list(range(100))
            assert answered == sorted(answered, key=lambda pong: pong.data)
            client.ping()


class TestBlockedReceiver:
    """Each test must end before the write timeout of 2 s."""

    def flood(self, sender: Client, receiver: NodePublic, packets: int, size: int = 8_000) -> None:
        for number in range(packets):
            sender.send(receiver, number.to_bytes(4, "big") * (size // 4))
        sender.fence()

    def test_its_queue_keeps_the_newest_32_packets_in_order(self, relay: Server) -> None:
        packets = 400
        before = relay.counted()["drops"]["queue_head other"]
        with Client.join(relay.door, receive_buffer=SMALL_BUFFER) as blocked, join(relay) as sender:
            self.flood(sender, blocked.key, packets)
            sender.send(blocked.key, packets.to_bytes(4, "big"))
            sender.fence()
            came: list[RecvPacket] = []
            while not came or numbered(came[-1:]) != [packets]:
                came.append(blocked.packet())
        numbers = numbered(came)
        assert numbers == sorted(set(numbers))
        assert numbers[-QUEUE:] == list(range(packets - QUEUE + 1, packets + 1))
        dropped = packets + 1 - len(numbers)
        assert dropped > 0
        assert relay.counted()["drops"]["queue_head other"] - before == dropped

    def test_disco_overtakes_queued_packets(self, relay: Server) -> None:
        packets = 400
        with Client.join(relay.door, receive_buffer=SMALL_BUFFER) as blocked, join(relay) as sender:
            self.flood(sender, blocked.key, packets)
            sender.send(blocked.key, DISCO)
            sender.fence()
            came = [blocked.packet() for _ in range(1)]
            while numbered(came[-1:]) != [packets - 1]:
                came.append(blocked.packet())
        assert [frame.packet == DISCO for frame in came].index(True) < len(came) - QUEUE

    def test_it_delays_neither_its_senders_nor_their_other_peers(self, relay: Server) -> None:
        with (
            Client.join(relay.door, receive_buffer=SMALL_BUFFER) as blocked,
            join(relay) as sender,
            join(relay) as friend,
        ):
            for number in range(300):
                sender.send(blocked.key, bytes(8_000))
                sender.send(friend.key, number.to_bytes(4, "big"))
                assert numbered([friend.packet()]) == [number]

    def test_it_still_gets_frames_that_may_not_be_dropped(self, relay: Server) -> None:
        with Client.join(relay.door, receive_buffer=SMALL_BUFFER) as blocked:
            with join(relay) as sender:
                self.flood(sender, blocked.key, 400)
            frame = blocked.next()
            while not isinstance(frame, PeerGone):
                frame = blocked.next()
            assert frame == PeerGone(sender.key, PeerGoneReason.DISCONNECTED)


def test_a_client_may_set_its_home_node(relay: Server) -> None:
    with join(relay) as client:
        for home in (True, True, False):
            client.wire.send(NotePreferred(home).encode())
        assert client.fence() == []


def test_a_change_of_home_counts_once_a_client_has_settled(plain_relay: Server) -> None:
    before = plain_relay.counted()
    with join(plain_relay) as client:
        began = time.monotonic()
        counted = before
        home = False
        while counted["home_moves_in"] == before["home_moves_in"] and time.monotonic() - began < 10:
            home = not home
            client.wire.send(NotePreferred(home).encode())
            client.fence()
            counted = plain_relay.counted()
        assert time.monotonic() - began >= 5


def test_packets_of_every_size_go_both_ways(relay: Server) -> None:
    sizes = [0, 1, 61, 62, 63, 1_200, 16_384, 16_385, 65_499, 65_535, 65_536]
    with join(relay) as one, join(relay) as other:
        for sender, receiver in ((one, other), (other, one)):
            for size in sizes:
                packet = bytes(number % 251 for number in range(size))
                sender.send(receiver.key, packet)
                assert receiver.packet() == RecvPacket(sender.key, packet)


def shard_of(relay: Server, client: Client) -> int:
    while (shard := relay.counted()["shards"].get(client.key.hex())) is None:
        client.ping()
    assert isinstance(shard, int)
    return shard


@contextmanager
def flooding(client: Client) -> Iterator[None]:
    """Send packets to an absent key all the time, to keep the client's shard busy."""
    work = SendPacket(new_key().public(), b"").encode() * 10_000
    enough = threading.Event()

    def flood() -> None:
        while not enough.is_set():
            client.wire.send(work)

    thread = threading.Thread(target=flood, name="flood")
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def test_packets_cross_from_shard_to_shard_in_order_and_none_is_lost(two_shards: Server) -> None:
    """New keys go to the busiest shard that has room, so one shard is kept busy until a key lands on the other."""
    with join(two_shards) as busy, ExitStack() as strangers:
        home = shard_of(two_shards, busy)
        with flooding(busy):
            deadline = time.monotonic() + 10
            far = strangers.enter_context(join(two_shards))
            while shard_of(two_shards, far) == home:
                assert time.monotonic() < deadline, "the shard never became too busy for another key"
                far = strangers.enter_context(join(two_shards))
        busy.fence()
        for number in range(1_000):
            for sender, receiver in ((busy, far), (far, busy)):
                sender.send(receiver.key, number.to_bytes(4, "big") * 100)
            for receiver in (far, busy):
                assert numbered([receiver.packet()]) == [number]
        with Client.join(two_shards.door, far.private) as newest:
            busy.send(far.key, b"to the newest")
            assert newest.packet().packet == b"to the newest"
            far.ping()
            busy.send(far.key, b"to who spoke last")
            assert far.packet().packet == b"to who spoke last"
        far.wire.close()
        assert busy.next() == PeerGone(far.key, PeerGoneReason.DISCONNECTED)
