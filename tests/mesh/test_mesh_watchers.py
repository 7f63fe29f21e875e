"""Notifications of watchers: all connected keys at first, then each new and each removed connection."""

from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address

import derpwire
import pytest
from derpwire import Client
from region import MESH_KEY, Region

from derper.protocol.decode import FromServer
from derper.protocol.frames import Endpoint, PeerFlags, PeerGone, PeerPresent, WatchConns
from derper.protocol.keys import NodePublic
from derper.protocol.login import ClientInfo
from derper.protocol.upgrade import upgrade_request


@pytest.fixture(scope="module", params=["ours", "ours2", "go"])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    with Region(tmp_path_factory.mktemp("watched"), request.param) as region:
        yield region


@pytest.fixture
def node(started: Region) -> Iterator[Region]:
    """A region with one node."""
    yield started
    started.send_home()


def endpoint(client: Client) -> Endpoint:
    ip, port = client.wire.sock.getsockname()
    return Endpoint(ip_address(ip), port)


def present(client: Client, flags: PeerFlags = PeerFlags.REGULAR, app_name: str = "") -> PeerPresent:
    return PeerPresent(client.key, endpoint(client), flags, app_name)


def frames_about(watcher: Client, *keys: NodePublic, frames: int) -> list[FromServer]:
    """Return the next frames about these keys; keys of earlier tests may still be leaving."""
    told: list[FromServer] = []
    while len(told) < frames:
        frame = watcher.next()
        if isinstance(frame, PeerPresent | PeerGone) and frame.peer in keys:
            told.append(frame)
    return told


@pytest.fixture
def one_of_each(node: Region, monkeypatch: pytest.MonkeyPatch) -> list[PeerPresent]:
    """One client of each kind; the value is their expected announcements."""
    prober = ClientInfo(is_prober=True)
    probing_peer = ClientInfo(mesh_key=MESH_KEY, is_prober=True, app_name="a-monitor")
    announced = [
        present(node.join(0)),
        present(node.join(0, info=ClientInfo(app_name="tailscaled")), app_name="tailscaled"),
        present(node.join(0, info=prober), PeerFlags.PROBER),
        present(node.join_mesh(0), PeerFlags.MESH_PEER),
        present(node.join(0, info=probing_peer), PeerFlags.MESH_PEER | PeerFlags.PROBER, "a-monitor"),
    ]
    monkeypatch.setattr(derpwire, "upgrade_request", partial(upgrade_request, ideal_node="1a"))
    announced.append(present(node.join(0), PeerFlags.NOT_IDEAL))
    announced.append(present(node.join(0, info=prober), PeerFlags.NOT_IDEAL | PeerFlags.PROBER))
    monkeypatch.undo()
    return announced


def test_a_watcher_gets_all_connected_clients_itself_included(node: Region, one_of_each: list[PeerPresent]) -> None:
    watcher = node.join_mesh(0, watch=True)
    wanted = [*one_of_each, present(watcher, PeerFlags.MESH_PEER)]
    told = frames_about(watcher, *(announced.peer for announced in wanted), frames=len(wanted))
    assert sorted(told, key=repr) == sorted(wanted, key=repr)


def test_a_watcher_gets_each_new_client(node: Region, request: pytest.FixtureRequest) -> None:
    watcher = node.join_mesh(0, watch=True)
    one_of_each: list[PeerPresent] = request.getfixturevalue("one_of_each")
    told = frames_about(watcher, *(announced.peer for announced in one_of_each), frames=len(one_of_each))
    assert sorted(told, key=repr) == sorted(one_of_each, key=repr)


def test_each_connection_of_a_key_is_announced_and_only_the_last_one_as_gone(node: Region) -> None:
    watcher = node.join_mesh(0, watch=True)
    first = node.join(0)
    assert frames_about(watcher, first.key, frames=1) == [present(first)]
    second = node.join(0, first.private, ClientInfo(app_name="again"))
    assert frames_about(watcher, first.key, frames=1) == [present(second, app_name="again")]
    first.wire.close()
    stranger = node.join(0)
    assert frames_about(watcher, first.key, stranger.key, frames=1) == [present(stranger)]
    second.wire.close()
    assert frames_about(watcher, first.key, frames=1) == [PeerGone(first.key)]
    third = node.join(0, first.private)
    assert frames_about(watcher, first.key, frames=1) == [present(third)]


def test_a_second_watch_repeats_all_clients_and_each_change_is_sent_once(node: Region) -> None:
    already = node.join(0)
    watcher = node.join_mesh(0, watch=True)
    frames_about(watcher, already.key, watcher.key, frames=2)
    watcher.wire.send(WatchConns().encode())
    again = frames_about(watcher, already.key, watcher.key, frames=2)
    expected = [present(already), present(watcher, PeerFlags.MESH_PEER)]
    assert sorted(again, key=repr) == sorted(expected, key=repr)
    watcher.fence()
    client = node.join(0)
    told = frames_about(watcher, client.key, frames=1)
    assert told == [present(client)]
    client.wire.close()
    stranger = node.join(0)
    told = frames_about(watcher, client.key, stranger.key, frames=2)
    assert sorted(told, key=repr) == sorted([PeerGone(client.key), present(stranger)], key=repr)


def test_a_client_without_the_mesh_key_may_not_watch(node: Region) -> None:
    curious = node.join(0)
    curious.wire.send(WatchConns().encode())
    assert curious.wire.rest() == b""


def test_packets_of_a_watcher_are_relayed_like_a_clients(node: Region) -> None:
    watcher, client = node.join_mesh(0, watch=True), node.join(0)
    frames_about(watcher, watcher.key, client.key, frames=2)
    watcher.send(client.key, b"to the client")
    assert client.packet().packet == b"to the client"
    client.send(watcher.key, b"to the watcher")
    assert watcher.packet().packet == b"to the watcher"
