"""Clients of a region get the same service on every node, wherever their peers are connected.

Each claim holds in a region of our nodes, and in one where the reference is a node at either end.
"""

from collections.abc import Iterator

import pytest
from derpwire import new_key
from region import Region, introduce

from derper.protocol.disco import DISCO_MAGIC
from derper.protocol.frames import ClosePeer, ForwardPacket, PeerGone, PeerGoneReason, RecvPacket

DISCO = DISCO_MAGIC + bytes(range(56, 130))
BIGGEST = bytes(range(256)) * 256
IN_FLIGHT = 16  # well below the 32 packets that the reference queues for a receiver


@pytest.fixture(scope="module", params=["ours2+ours", "ours2+go"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    with Region(tmp_path_factory.mktemp("pair"), *request.param.split("+")) as region:
        yield region


@pytest.fixture(scope="module", params=["ours+ours2+ours", "ours+ours2+go"])
def three(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    with Region(tmp_path_factory.mktemp("three"), *request.param.split("+")) as region:
        yield region


@pytest.fixture
def region(pair: Region) -> Iterator[Region]:
    yield pair
    pair.send_home()


@pytest.fixture
def region_of_three(three: Region) -> Iterator[Region]:
    yield three
    three.send_home()


@pytest.fixture(params=["outward", "inward"])
def ends(request: pytest.FixtureRequest) -> tuple[int, int]:
    """The indices of two nodes, in both orders."""
    return (0, 1) if request.param == "outward" else (1, 0)


@pytest.mark.parametrize(
    "packet", [b"x", b"", DISCO, BIGGEST, DISCO_MAGIC], ids=["data", "empty", "disco", "biggest", "short"]
)
def test_every_kind_of_packet_arrives_unchanged(region: Region, ends: tuple[int, int], packet: bytes) -> None:
    here, there = (region.join(at) for at in ends)
    introduce(here, there)
    here.send(there.key, packet)
    assert there.packet() == RecvPacket(here.key, packet)


def test_ten_thousand_packets_arrive_in_order(region: Region, ends: tuple[int, int]) -> None:
    here, there = (region.join(at) for at in ends)
    introduce(here, there)
    for first in range(0, 10_000, IN_FLIGHT):
        numbers = [number.to_bytes(4, "big") for number in range(first, first + IN_FLIGHT)]
        for number in numbers:
            here.send(there.key, number)
        assert [there.packet().packet for _ in numbers] == numbers


def test_a_client_of_the_same_node_has_precedence_over_one_of_another(region: Region, ends: tuple[int, int]) -> None:
    sender, far = (region.join(at) for at in ends)
    introduce(sender, far)
    near = region.join(ends[0], far.private)
    for number in range(100):
        sender.send(near.key, bytes([number]))
        assert near.packet().packet == bytes([number])
    assert far.fence() == []

    near.wire.close()
    introduce(sender, far)
    assert sender.fence() == []


def test_receivers_are_notified_when_a_sender_leaves_the_region(region: Region, ends: tuple[int, int]) -> None:
    here, there = (region.join(at) for at in ends)
    introduce(there, here)
    there.wire.close()
    assert here.next() == PeerGone(there.key, PeerGoneReason.DISCONNECTED)


def test_receivers_are_notified_again_when_a_sender_returns_and_leaves_again(region: Region) -> None:
    # At a node of ours; the reference notifies of a key only once.
    here, key = region.join(0), new_key()
    for _ in range(3):
        there = region.join(1, key)
        introduce(there, here)
        there.wire.close()
        assert here.next() == PeerGone(there.key, PeerGoneReason.DISCONNECTED)


def test_no_client_is_notified_of_a_client_that_moves_to_another_node(region: Region, ends: tuple[int, int]) -> None:
    here, there, last_word = region.join(ends[0]), region.join(ends[1]), region.join(ends[1])
    introduce(there, here)
    introduce(last_word, here)
    moved = region.join(ends[0], there.private)
    watcher = region.join_mesh(ends[1], watch=True)
    while getattr(watcher.next(), "peer", None) != there.key:
        pass
    there.wire.close()
    while watcher.next() != PeerGone(there.key):
        pass
    last_word.wire.close()
    assert here.next() == PeerGone(last_word.key)
    here.send(moved.key, b"still there")
    assert moved.packet() == RecvPacket(here.key, b"still there")


def test_a_client_that_moves_between_nodes_keeps_receiving(region_of_three: Region) -> None:
    region = region_of_three
    sender = region.join(0)
    moving = region.join(0)
    moving.send(sender.key, b"I will move")
    assert sender.packet().source == moving.key
    for at in [1, 2, 0, 2, 1, 0]:
        moved = region.join(at, moving.private)
        introduce(moved, sender)
        moving.wire.close()
        moving = moved
        introduce(sender, moving)
    assert sender.fence() == []


def test_a_forwarded_packet_is_never_forwarded_again(region: Region, ends: tuple[int, int]) -> None:
    monitor, there = region.join_mesh(ends[0]), region.join(ends[1])
    introduce(monitor, there)
    source = new_key().public()
    monitor.wire.send(ForwardPacket(source, there.key, b"two hops").encode())
    monitor.wire.send(ForwardPacket(source, there.key, DISCO).encode())
    assert monitor.next() == PeerGone(there.key, PeerGoneReason.NOT_HERE)
    monitor.send(there.key, b"one hop")
    assert there.packet() == RecvPacket(monitor.key, b"one hop")


def test_a_disco_packet_forwarded_to_a_client_that_just_left_is_answered(region: Region, ends: tuple[int, int]) -> None:
    monitor, left = region.join_mesh(ends[0], watch=True), region.join(ends[0])
    source = new_key().public()
    monitor.wire.send(ForwardPacket(source, left.key, DISCO).encode())
    assert left.packet() == RecvPacket(source, DISCO)
    left.wire.close()
    while monitor.next() != PeerGone(left.key, PeerGoneReason.DISCONNECTED):
        pass
    monitor.wire.send(ForwardPacket(source, left.key, b"no disco packet").encode())
    monitor.wire.send(ForwardPacket(source, left.key, DISCO).encode())
    assert monitor.next() == PeerGone(left.key, PeerGoneReason.NOT_HERE)


def test_close_peer_ends_every_connection_of_a_key_on_that_node_only(region: Region, ends: tuple[int, int]) -> None:
    monitor = region.join_mesh(ends[0])
    first = region.join(ends[0])
    second, elsewhere = region.join(ends[0], first.private), region.join(ends[1], first.private)
    monitor.wire.send(ClosePeer(first.key).encode())
    assert first.wire.rest() == b""
    assert second.wire.rest() == b""
    assert elsewhere.fence() == []
    introduce(monitor, elsewhere)


@pytest.mark.parametrize("home", range(3))
def test_packets_to_a_key_on_two_other_nodes_go_to_the_first_and_then_to_the_second(
    region_of_three: Region, home: int
) -> None:
    region = region_of_three
    first_at, second_at = (at for at in range(3) if at != home)
    sender, first = region.join(home), region.join(first_at)
    introduce(sender, first)
    introduce(first, sender)
    second, came_later = region.join(second_at, first.private), region.join(second_at)
    introduce(sender, came_later)  # so the sender's node knows the earlier one, too
    for number in range(20):
        sender.send(first.key, bytes([number]))
        assert first.packet().packet == bytes([number])
    assert second.fence() == []
    first.wire.close()
    introduce(sender, second)
    assert sender.fence() == []
    second.wire.close()
    assert sender.next() == PeerGone(first.key, PeerGoneReason.DISCONNECTED)
