"""Real nodes of a real Headscale use our relay; Headscale and tailscaled decide which clients it admits."""

import contextlib
import hashlib
import os
import re
import socketserver
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from derpwire import Client, RelayAddress
from realclient import check
from relays import HOST, OurDerper, free_port
from serving import client_context
from tailnet import Headscale, Node

from derper.protocol import NodePrivate
from derper.protocol.frames import FrameType, Health

FILE = os.urandom(3 << 20)


@dataclass(frozen=True)
class Tailnet:
    """A relay that asks Headscale about all clients every second, and three nodes with this relay as their home."""

    relay: OurDerper
    headscale: Headscale
    alpha: Node
    beta: Node
    gamma: Node


@pytest.fixture(scope="module")
def tailnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tailnet]:
    folder = tmp_path_factory.mktemp("tailnet")
    headscale = Headscale(folder / "headscale")
    stun = free_port()
    flags = ["-stun=true", "-stun-port", str(stun), "-verify-client-url", f"{headscale.url}/verify",
             "-verify-client-url-fail-open=false", "-verify-interval=1s"]  # fmt: skip
    nodes = [Node(folder / name, name) for name in ("alpha", "beta", "gamma")]
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(OurDerper(folder / "relay", tls=True, flags=flags))
        stack.enter_context(headscale)
        headscale.start(relay, stun)
        key = headscale.join_key()

        def join(node: Node) -> None:
            node.start()
            node.join(headscale, key)

        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(join, map(stack.enter_context, nodes)))
        for node in nodes:
            node.wait_until("it knows the others", partial(node.knows, len(nodes) - 1))
        yield Tailnet(relay, headscale, *nodes)


@pytest.fixture
def file_port() -> Iterator[int]:
    """The port that serves `FILE` on this machine, where a node's inbound connections end."""

    class Serve(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(FILE)

    with socketserver.ThreadingTCPServer((HOST, 0), Serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def page(relay: OurDerper, path: str) -> str:
    url = f"{relay.url}{path}"
    with urllib.request.urlopen(url, context=client_context(relay.certificate)) as response:  # noqa: S310  our relay's
        text: str = response.read().decode()
    return text


def bytes_sent(relay: OurDerper) -> int:
    found = re.search(r"^derp_bytes_sent (\d+)$", page(relay, "/debug/varz"), re.MULTILINE)
    assert found is not None
    return int(found[1])


def problem_of(relay: OurDerper, private: NodePrivate) -> str | None:
    """Return the problem that a client with this key gets; None if it is admitted."""
    with Client(RelayAddress(relay.port, client_context(relay.certificate)).connect(), private) as client:
        client.upgrade()
        client.wire.send(client.client_info())
        first = client.frame()
        if first.type == FrameType.SERVER_INFO:
            return None
        assert client.wire.rest() == b""
        return Health.from_payload(first.payload).problem


def test_nodes_ping_each_other_through_our_relay(tailnet: Tailnet) -> None:
    for one, other in ((tailnet.alpha, tailnet.beta), (tailnet.beta, tailnet.alpha)):
        said = one.say("ping", "--c=3", "--timeout=1s", "--until-direct=false", other.ip)
        assert re.search(rf"pong from {other.name} \({other.ip}\) via DERP\(mine\)", said)


def test_a_file_is_fetched_through_our_relay(tailnet: Tailnet, file_port: int) -> None:
    before = bytes_sent(tailnet.relay)
    fetched = tailnet.alpha.fetch(tailnet.beta.ip, file_port)
    assert hashlib.sha256(fetched).digest() == hashlib.sha256(FILE).digest()
    assert bytes_sent(tailnet.relay) - before > len(FILE)


def test_the_real_client_gets_the_reason_of_its_rejection(tailnet: Tailnet) -> None:
    verdict = check("refused", tailnet.relay.url, "-pin", tailnet.relay.pin)
    assert verdict.ok, verdict.error
    told = "this relay rejected this device: the relay's operator does not allow it"
    assert verdict.notes["problem"] == told


def test_a_node_deleted_in_headscale_is_disconnected_and_its_user_is_notified(tailnet: Tailnet) -> None:
    gamma, relay = tailnet.gamma, tailnet.relay
    key = gamma.key
    (number,) = [node["id"] for node in tailnet.headscale.run("nodes", "list") if node["node_key"] == key]
    tailnet.headscale.run("nodes", "delete", "--identifier", str(number), "--force")
    relay.wait_for_log(rf'event="client no longer admitted" key={key} remote=127.0.0.1 reason=')
    relay.wait_for_log(rf'event="client rejected" key={key} remote=127.0.0.1 reason="admission controller: .*allowed"')
    gamma.wait_until("its user is told", lambda: "does not allow it" in " ".join(gamma.status()["Health"]))


def test_a_tailscaled_decides_who_may_connect_also_during_its_restart(tailnet: Tailnet, tmp_path: Path) -> None:
    alpha, known = tailnet.alpha, tailnet.beta.private()
    flags = ["-verify-clients", "-socket", str(alpha.socket), "-verify-cache=1h", "-verify-interval=300ms"]
    with OurDerper(tmp_path, tls=True, flags=flags) as relay:
        context = client_context(relay.certificate)
        assert page(relay, "/debug/check") == "derp.Server ConsistencyCheck okay"
        stranger = NodePrivate.from_entropy(os.urandom(32))
        told = "this relay rejected this device: the relay's tailnet does not know it"
        assert problem_of(relay, stranger) == told
        relay.wait_for_log(rf'"peer {stranger.public()} not authorized \(not found in local tailscaled\)"')
        with Client.join(RelayAddress(relay.port, context), known) as staying:
            staying.ping()
            alpha.stop()
            assert problem_of(relay, known) is None  # by the daemon's earlier answer
            assert problem_of(relay, stranger) == "this relay rejected this device: it cannot be verified at the moment"
            alpha.start()
            alpha.wait_until("it is back", lambda: alpha.status()["BackendState"] == "Running")
            assert problem_of(relay, stranger) == told
            staying.ping()
    assert "no longer admitted" not in relay.log()
