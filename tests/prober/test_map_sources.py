"""Sources of the map, and the keys with which the prober logs in, each from a real server."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

import pytest
from probed import ProbedRegion, config_of, derpprobe
from region import MESH_KEY, OurNode
from relays import HOST, OurDerper, free_port
from tailnet import Headscale, Node
from test_real_setec import setec

from derper.errors import DerperError, NetworkError, ProtocolError
from derper.prober import source
from derper.prober.app import map_probe_of
from derper.prober.clients import Keys
from derper.prober.source import MapSource
from derper.prober.trust import Trust
from derper.protocol.derpmap import MAX_BYTES
from derper.protocol.keys import NodePublic

MAP: Final = b'{"Regions": {"900": {"RegionID": 900, "RegionCode": "test", "Nodes": []}}}'


class Control:
    """A control server with settable answers, which can also be unreachable."""

    def __init__(self) -> None:
        self.status, self.body = 200, MAP
        self.admitted: set[str] = set()
        control = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(control.status, control.body)

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                allowed = asked["NodePublic"] in control.admitted
                self.answer(200, json.dumps({"Allow": allowed}).encode())

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Answering)
        self.url = f"http://{HOST}:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def control() -> Iterator[Control]:
    made = Control()
    yield made
    made.stop()


def source_of(*flags: str) -> MapSource:
    config = config_of(None, "-derp-map", *flags)
    return MapSource(config, Trust.load(config.roots))


async def test_a_map_comes_over_http(control: Control) -> None:
    assert list((await source_of(f"{control.url}/map").fetch()).regions) == [900]


@pytest.mark.parametrize(
    ("status", "body", "word"),
    [
        (503, MAP, r"fetching http://\S+: 503 Service Unavailable"),
        (200, b"hello", r"decoding http://\S+ JSON: "),
        (200, b" " * (MAX_BYTES + 1), "more than 4,000,000 bytes"),
    ],
    ids=["503", "garbage", "too much"],
)
async def test_an_invalid_map_is_a_failure_at_once(control: Control, status: int, body: bytes, word: str) -> None:
    maps = source_of(f"{control.url}/map")
    await maps.fetch()
    control.status, control.body = status, body
    with pytest.raises((NetworkError, ProtocolError), match=word):
        await maps.fetch()


async def test_the_last_map_is_kept_for_ten_minutes_while_its_source_is_unreachable(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = source_of(f"{control.url}/map")
    with_map = await maps.fetch()
    control.stop()
    assert await maps.fetch() is with_map
    now = time.monotonic()
    monkeypatch.setattr(source, "_clock", lambda: now + 599)
    assert await maps.fetch() is with_map
    monkeypatch.setattr(source, "_clock", lambda: now + 601)
    with pytest.raises(NetworkError, match=r'^Get "http://\S+": .*Connect'):
        await maps.fetch()


@pytest.mark.parametrize("where", ["ftp://a.example.test/map", "/etc/derpmap.json", "", "http://"])
async def test_an_unsupported_source_is_a_failure_of_the_map_probe(where: str) -> None:
    config = config_of(None, "-derp-map", where)
    run = await map_probe_of(config, Keys(None, None)).probe().run()
    assert run.error.startswith(f'Get "{where}": ')


async def test_a_missing_file_has_the_references_error(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"^fetching file:///\S+/no%20map\.json: 404 Not Found$"):
        await source_of(f"file://{tmp_path}/no%20map.json").fetch()


async def test_without_a_tailscaled_its_map_is_reported_as_unreachable() -> None:
    with pytest.raises(DerperError, match="Failed to connect to local Tailscale daemon for /localapi/v0/derpmap"):
        await source_of("local").fetch()


async def test_local_is_the_map_of_the_tailscaled_on_this_machine(tmp_path: Path) -> None:
    with (
        OurDerper(tmp_path / "relay", tls=True) as relay,
        Headscale(tmp_path / "headscale") as headscale,
        Node(tmp_path / "node", "prober") as node,
    ):
        headscale.start(relay, free_port())
        node.start()
        node.join(headscale, headscale.join_key())
        config = replace(config_of(None, "-derp-map", "local"), tailscaled_socket=node.socket)
        derp_map = await MapSource(config, Trust.load(config.roots)).fetch()
    assert [(one.name, one.host_name, one.port) for one in derp_map.nodes] == [("mine", HOST, relay.port)]


@pytest.fixture(scope="module")
def verifying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ProbedRegion, Control]]:
    """A relay that asks a controller at a URL before it admits clients."""
    control = Control()
    region = ProbedRegion(tmp_path_factory.mktemp("verifying"), "ours")
    node = region.nodes[0]
    assert isinstance(node, OurNode)
    node.command += ["-verify-client-url", control.url, "-verify-client-url-fail-open=false"]
    with region:
        yield region, control
    control.stop()


async def test_a_relay_that_verifies_clients_admits_the_keys_of_a_probe_key(
    verifying: tuple[ProbedRegion, Control], tmp_path: Path
) -> None:
    region, control = verifying
    flags = region.flags("-probe-key", str(tmp_path / "probe.key"), "-tls-interval=0", "-stun-interval=0")
    refused = derpprobe(*flags, "-once", roots=region.authority.file)
    assert refused.returncode == 1
    control.admitted = {line.split()[0] for line in derpprobe(*flags, "-probe-keys").stdout.splitlines()}
    assert len({NodePublic.from_text(key) for key in control.admitted}) == 2
    assert derpprobe(*flags, "-once", roots=region.authority.file).returncode == 0


def test_the_mesh_key_of_a_file_or_a_secrets_server_admits_too(
    verifying: tuple[ProbedRegion, Control], tmp_path: Path
) -> None:
    region, control = verifying
    control.admitted = set()
    flags = region.flags("-tls-interval=0", "-stun-interval=0", "-once")
    roots, key, port = region.authority.file, MESH_KEY.to_text(), free_port()
    assert derpprobe(*flags, roots=roots).returncode == 1
    assert derpprobe(*flags, "-mesh-psk-file", str(region.mesh_key), roots=roots).returncode == 0
    assert derpprobe(*flags, "-dev", roots=roots, env={"TAILSCALE_DERPER_MESH_KEY": key}).returncode == 0
    with setec(tmp_path / "log", port, value=key):
        secrets = ("-secrets-url", f"http://{HOST}:{port}", "-secrets-cache-dir", str(tmp_path / "cache"))
        assert derpprobe(*flags, *secrets, roots=roots).returncode == 0
