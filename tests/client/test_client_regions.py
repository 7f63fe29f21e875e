"""A region of a DERP map: its nodes are tried in order, over both address families, each for its share of the time."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import pytest
from relays import HOST, GoDerper, OurDerper, Relay, free_port
from waysin import MESH_KEY, SECONDS, expect

from derper.client import Connected, DerpClient, Disconnected, Node, Options, PeerPresent, Region, client, dial
from derper.errors import ConfigError, NetworkError
from derper.protocol.frames import PeerFlags


@pytest.fixture(scope="module", params=[OurDerper, GoDerper], ids=lambda kind: kind.name)
def relay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("region")
    (folder / "mesh.key").write_text(MESH_KEY.to_text())
    with request.param(folder, tls=True, flags=("-mesh-psk-file", str(folder / "mesh.key"))) as relay:
        yield relay


def node(relay: Relay, name: str = "900a") -> Node:
    return Node(name, 900, HOST, cert_name=relay.pin, derp_port=relay.port)


def region(*nodes: Node) -> Region:
    return Region(900, "test", nodes=nodes)


@contextmanager
def silent(family: socket.AddressFamily = socket.AF_INET) -> Iterator[int]:
    """Yield a port that accepts no connection: its backlog is full."""
    host = "::1" if family == socket.AF_INET6 else HOST
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        listener.bind((host, 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(family))
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def connected_to(where: Region | Node, options: Options | None = None) -> str:
    async with asyncio.timeout(SECONDS), DerpClient(where, None, options) as client:
        assert client.connected
        await client.ping()
        return client.connected.node.name


async def test_the_first_node_is_used_if_it_answers(relay: Relay) -> None:
    assert await connected_to(region(node(relay, "900a"), node(relay, "900b"))) == "900a"


@pytest.mark.parametrize("websocket", [False, True], ids=["tcp", "websocket"])
async def test_a_node_that_is_down_or_not_trusted_is_skipped(relay: Relay, websocket: bool) -> None:  # noqa: FBT001
    down = replace(node(relay), derp_port=free_port())
    other = replace(node(relay, "900b"), cert_name="sha256-raw:" + "0" * 64)
    options = Options(websocket=websocket)
    assert await connected_to(region(down, other, node(relay, "900c")), options) == "900c"


async def test_a_node_for_stun_only_is_skipped(relay: Relay) -> None:
    assert await connected_to(region(replace(node(relay), stun_only=True), node(relay, "900b"))) == "900b"
    with pytest.raises(ConfigError, match="no node that relays"):
        DerpClient(region(replace(node(relay), stun_only=True)))


async def test_a_node_that_does_not_answer_is_skipped_after_1500_ms(relay: Relay) -> None:
    loop = asyncio.get_running_loop()
    with silent() as port:
        began = loop.time()
        assert await connected_to(region(replace(node(relay), derp_port=port), node(relay, "900b"))) == "900b"
    assert 1.4 < loop.time() - began < 4


async def test_a_client_on_another_node_sends_the_name_of_the_first(relay: Relay) -> None:
    options = Options(mesh_key=MESH_KEY)
    down = replace(node(relay), derp_port=free_port())
    async with asyncio.timeout(SECONDS), DerpClient(node(relay), None, options) as watcher:
        await watcher.watch()
        assert (await expect(watcher, PeerPresent)).peer == watcher.key
        for where, is_ideal in ((region(node(relay)), True), (region(down, node(relay, "900b")), False)):
            async with DerpClient(where) as alice:
                present = await expect(watcher, PeerPresent)
                assert present.peer == alice.key
                assert bool(present.flags & PeerFlags.NOT_IDEAL) is not is_ideal
            await watcher.receive()


async def test_if_no_node_answers_the_error_has_every_reason(relay: Relay) -> None:
    down = replace(node(relay), derp_port=free_port())
    other = replace(node(relay, "900b"), cert_name="sha256-raw:" + "0" * 64)
    with pytest.raises(NetworkError, match=r"no node of the region: cannot .* refused; .* wanted sha256-raw:0"):
        await connected_to(region(down, other))


async def test_a_client_moves_when_its_node_stops_and_back_when_it_returns(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    with (
        OurDerper(tmp_path_factory.mktemp("first"), tls=True) as first,
        OurDerper(tmp_path_factory.mktemp("second"), tls=True) as second,
    ):
        both = region(node(first, "900a"), node(second, "900b"))
        async with asyncio.timeout(2 * SECONDS), DerpClient(both) as alice:
            assert [await node_of(alice)] == ["900a"]
            await asyncio.to_thread(first.kill)
            assert await node_of(alice) == "900b"
            await asyncio.to_thread(first.start_again)
            await asyncio.to_thread(second.kill)
            assert await node_of(alice) == "900a"


async def node_of(alice: DerpClient) -> str:
    """Return the node of the next connection."""
    while isinstance(message := await alice.receive(), Disconnected):
        pass
    assert isinstance(message, Connected)
    return message.node.name


@pytest.fixture
async def listener() -> AsyncIterator[int]:
    async def hang_up(_stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        out.close()

    async with await asyncio.start_server(hang_up, HOST, 0) as server:
        yield server.sockets[0].getsockname()[1]


async def dialled(node: Node) -> str:
    with await dial.connect(node) as sock:
        host: str = sock.getpeername()[0]
        return host


async def test_ipv4_is_tried_soon_if_ipv6_does_not_answer(listener: int) -> None:
    """The name has addresses of both families; the IPv6 address does not answer."""
    loop = asyncio.get_running_loop()
    with silent(socket.AF_INET6) as port:
        racing = [
            partial(dial._to, socket.AF_INET6, ("::1", port)),  # noqa: SLF001  no name leads to two ports
            partial(dial._to, socket.AF_INET, (HOST, listener)),  # noqa: SLF001
        ]
        began = loop.time()
        with await dial._first(racing) as sock:  # noqa: SLF001
            assert sock.getpeername()[0] == HOST
        assert 0.2 < loop.time() - began < 1


async def test_after_one_family_fails_the_other_is_tried_at_once(
    listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "HEAD_START_SECONDS", SECONDS)
    async with asyncio.timeout(SECONDS / 2):
        assert await dialled(Node("", 0, "derp.invalid", ipv6="::1", ipv4=HOST, derp_port=listener)) == HOST
        assert await dialled(Node("", 0, "derp.invalid", ipv4=HOST, derp_port=listener)) == HOST  # no name for IPv6


async def test_a_map_can_disable_address_families(listener: int) -> None:
    assert await dialled(Node("", 0, "localhost", ipv6="none", derp_port=listener)) == HOST
    with pytest.raises(NetworkError, match="cannot connect to localhost"):
        await dialled(Node("", 0, "localhost", ipv4="none", derp_port=listener))
    with pytest.raises(NetworkError, match="switches both IPv4 and IPv6 off"):
        await dialled(Node("", 0, "localhost", ipv4="none", ipv6="none", derp_port=listener))


async def test_an_address_of_one_family_causes_no_lookup_of_the_other(listener: int) -> None:
    assert await dial.addresses(Node("", 0, HOST, derp_port=listener)) == [(socket.AF_INET, HOST)]
    assert await dial.addresses(Node("", 0, "::1", derp_port=listener)) == [(socket.AF_INET6, "::1")]
    with pytest.raises(NetworkError, match=r"derp\.invalid has no address"):
        await dial.addresses(Node("", 0, "derp.invalid"))
    with pytest.raises(NetworkError, match="cannot connect"):
        await dialled(Node("", 0, "x" * 100, derp_port=listener))
