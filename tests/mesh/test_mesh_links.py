"""Links between nodes: dialled, lost and dialled again, without an effect on a node's own clients."""

import signal
from collections.abc import Iterator
from itertools import count
from os import kill

import pytest
from bystanders import Bystanders
from derpwire import HOST
from region import Region, introduce

from derper.protocol.frames import PeerGone

LINK_SECONDS = 1.0
LINKED = r"event=.mesh link up.*"
LOST = r"event=.mesh link down; retrying.*"


@pytest.fixture(scope="module", params=["ours2+ours", "ours2+go"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    tuning = {"plane": {"link_write_timeout": LINK_SECONDS}}
    with Region(tmp_path_factory.mktemp("pair"), *request.param.split("+"), tuning=tuning) as region:
        yield region


@pytest.fixture
def region(pair: Region) -> Iterator[Region]:
    """The region, which each test leaves with all links up."""
    yield pair
    pair.send_home()


def test_a_node_stops_dialling_only_itself(region: Region) -> None:
    ours = region.ours(0)
    own = rf"node={HOST}:{ours.port}\b"
    ours.logged("this server itself; not dialling it again.*" + own)
    assert not [line for line in ours.log().splitlines() if "mesh link down; retrying" in line and own in line]
    assert len([line for line in ours.log().splitlines() if "not dialling it again" in line]) == 1


def test_a_region_recovers_after_the_other_node_died(region: Region) -> None:
    here, there = region.join(0), region.join(1)
    introduce(there, here)
    since = region.ours(0).mark()
    region.nodes[1].kill()
    assert here.next() == PeerGone(there.key)
    lost = region.ours(0).logged(LOST, since)
    assert f"node={HOST}:{region.nodes[1].port}" in lost[0]
    region.nodes[1].start()
    region.ours(0).logged(LINKED, since)
    back = region.join(1, there.private)
    introduce(here, back)
    introduce(back, here)
    back.wire.close()
    assert here.next() == PeerGone(there.key)


def test_a_region_recovers_after_our_node_restarts(region: Region) -> None:
    here, there = region.join(0), region.join(1)
    introduce(here, there)
    assert region.nodes[0].stop() == 0
    assert there.next() == PeerGone(here.key)
    region.nodes[0].start()
    back = region.join(0, here.private)
    introduce(back, there)
    introduce(there, back)


def test_a_stopped_node_delays_no_client_and_is_linked_again_when_it_continues(region: Region) -> None:
    ours, frozen = region.ours(0), region.nodes[1]
    here, there = region.join(0), region.join(1)
    introduce(here, there)
    introduce(there, here)
    before = ours.memory()
    with Bystanders(ours.door) as bystanders:
        kill(frozen.pid, signal.SIGSTOP)
        try:
            since = ours.mark()
            for number in count():
                here.send(there.key, number.to_bytes(4, "big") * 8_000)
                if number % 100 == 0 and "write_timeout" in ours.log(since):
                    break
            bystanders.relay_on()
            assert ours.memory() - before < 32 * 1024 * 1024
            assert here.next() == PeerGone(there.key)
            counted = ours.counted()
            assert counted["sclient_write_timeouts"] == 1
            assert counted["drops"]["queue_head other"] > 0
        finally:
            kill(frozen.pid, signal.SIGCONT)
        ours.logged(LINKED, since)
    back = region.join(1, there.private)
    introduce(here, back)
    introduce(back, here)
