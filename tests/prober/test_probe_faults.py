"""Real faults: the affected probes fail with the reason, and all others succeed."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

import pytest
from cryptography import x509
from links import mistaken, narrow, silent
from probed import NAME, ProbedRegion
from region import OurNode
from relays import HOST

ALL: Final = {f"derp/test/900{node}/{what}" for node in "ab" for what in ("tls", "udp", "900a/mesh", "900b/mesh")}


def red(told: dict[str, str]) -> set[str]:
    return {name for name, error in told.items() if error}


@pytest.fixture(scope="module", params=[("ours", "ours"), ("ours", "go"), ("go", "go")], ids="-".join)
def region(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbedRegion]:
    """Two meshed nodes."""
    with ProbedRegion(tmp_path_factory.mktemp("meshed"), *request.param) as made:
        asyncio.run(made.meet())
        yield made


class Certified(ProbedRegion):
    """Two nodes without a mesh: one certificate ends within a week, one names a revocation list."""

    def __init__(self, folder: Path, lists: str) -> None:
        super().__init__(folder, "ours", "ours", meshed=False)
        identified = (self.authority.key_identifier(), x509.SubjectKeyIdentifier(b"somebody's"))
        listed = x509.DistributionPoint([x509.UniformResourceIdentifier(f"{lists}/list.crl")], None, None, None)
        self.authority.issue(folder / "0", NAME, timedelta(days=6, hours=23), *identified)
        self.serial = self.authority.issue(
            folder / "1", NAME, timedelta(days=7, hours=1), *identified, x509.CRLDistributionPoints([listed])
        )

    async def verdict(self, at: int, *flags: str) -> dict[str, str]:
        """Run the probes of a single node."""
        return await self.verdicts(*flags, nodes=[self.map_nodes()[at]])


class ListServer:
    """The server of a revocation list."""

    content: bytes | None = None
    fetched: int = 0


@pytest.fixture(scope="module")
def list_server() -> Iterator[tuple[ListServer, str]]:
    class Serving(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ListServer.fetched += 1
            self.send_response(404 if ListServer.content is None else 200)
            self.send_header("Content-Length", str(len(ListServer.content or b"")))
            self.end_headers()
            self.wfile.write(ListServer.content or b"")

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer((HOST, 0), Serving) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield ListServer(), f"http://{HOST}:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory, list_server: tuple[ListServer, str]) -> Iterator[Certified]:
    with Certified(tmp_path_factory.mktemp("certified"), list_server[1]) as made:
        yield made


async def test_a_certificate_that_ends_within_a_week_is_red_for_tls_only(certified: Certified) -> None:
    told = await certified.verdict(0)
    assert red(told) == {"derp/test/900a/tls"}
    assert "in less than 7 days" in told["derp/test/900a/tls"]


async def test_nodes_without_a_mesh_are_red_for_each_other_and_green_for_themselves(certified: Certified) -> None:
    told = await certified.verdicts("-tls-interval=0", nodes=certified.map_nodes())
    assert red(told) == {"derp/test/900a/900b/mesh", "derp/test/900b/900a/mesh"}
    assert "timeout" in told["derp/test/900a/900b/mesh"]


async def test_a_revoked_certificate_is_red_for_tls_only(
    certified: Certified, list_server: tuple[ListServer, str]
) -> None:
    list_server[0].content = ListServer.content = certified.authority.revocation_list(certified.serial + 1)
    assert red(await certified.verdict(1)) == set()
    ListServer.content = certified.authority.revocation_list(7, certified.serial)
    told = await certified.verdict(1)
    assert red(told) == {"derp/test/900b/tls"}
    assert "was revoked" in told["derp/test/900b/tls"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "404 Not Found"),
        (b"no list", "is not a revocation list"),
        (bytes(10_000_001), "more than 10,000,000 bytes"),
    ],
    ids=["missing", "garbage", "too much"],
)
async def test_an_unavailable_revocation_list_is_red(certified: Certified, content: bytes | None, word: str) -> None:
    ListServer.content = content
    told = await certified.verdict(1, "-mesh-interval=0")
    assert red(told) == {"derp/test/900b/tls"}
    assert word in told["derp/test/900b/tls"]


async def test_a_revocation_list_of_another_authority_is_red(certified: Certified, region: ProbedRegion) -> None:
    ListServer.content = region.authority.revocation_list()
    told = await certified.verdict(1, "-mesh-interval=0")
    assert "not signed by the certificate's issuer" in told["derp/test/900b/tls"]


async def test_a_node_that_is_down_is_red_in_all_probes_that_need_it(region: ProbedRegion) -> None:
    region.nodes[1].kill()
    told = await region.verdicts()
    region.nodes[1].start()
    assert red(told) == {name for name in ALL if "900b" in name}
    assert "Connection refused" in told["derp/test/900b/tls"]
    await region.meet()


async def test_a_wrong_pin_is_red_for_clients_only(region: ProbedRegion) -> None:
    nodes = region.map_nodes()
    nodes[0]["CertName"] = f"sha256-raw:{'0' * 64}"
    told = await region.verdicts(nodes=nodes)
    assert red(told) == {name for name in ALL if name.endswith("mesh") and "900a" in name}


async def test_blocked_stun_is_red_for_udp_only(region: ProbedRegion) -> None:
    nodes = region.map_nodes()
    with silent() as nodes[1]["STUNPort"]:
        told = await region.verdicts(nodes=nodes)
    assert red(told) == {"derp/test/900b/udp"}
    assert "no answer" in told["derp/test/900b/udp"]


async def test_stun_is_probed_over_ipv6_too_if_the_map_has_an_address(tmp_path: Path) -> None:
    region = ProbedRegion(tmp_path, "ours")
    node = region.nodes[0]
    assert isinstance(node, OurNode)
    node.command += ["-a", f"[::1]:{region.ports[0]}"]
    nodes = [region.map_nodes()[0] | {"IPv4": "none", "IPv6": "::1"}]
    with region:
        told = await region.verdicts("-mesh-interval=0", "-tls-interval=0", nodes=nodes)
    assert told == {"derpmap-probe": "", "derp/test/900a/udp6": ""}


async def test_an_answer_to_another_stun_request_is_red(region: ProbedRegion) -> None:
    nodes = region.map_nodes()[:1]
    with mistaken(region.stun_ports[0]) as nodes[0]["STUNPort"]:
        told = await region.verdicts("-tls-interval=0", "-mesh-interval=0", nodes=nodes)
    assert "another transaction ID" in told["derp/test/900a/udp"]


async def test_a_narrow_link_is_red_for_bandwidth_only(region: ProbedRegion) -> None:
    nodes = region.map_nodes()[:1]
    with narrow(region.ports[0], 200_000) as port:
        nodes[0]["DERPPort"] = port
        told = await region.verdicts("-bw-interval=2s", "-bw-probe-size-bytes=1000000", nodes=nodes)
    assert red(told) == {"derp/test/900a/900a/bw"}
    assert "timeout: not done after 1.6 s" in told["derp/test/900a/900a/bw"]


async def test_a_continuous_probe_ends_too_in_a_single_run(region: ProbedRegion) -> None:
    told = await region.verdicts("-qd-packets-per-second=50", "-mesh-interval=0")
    assert red(told) == set()
    assert {f"derp/test/900{node}/900{other}/qd" for node in "ab" for other in "ab"} < told.keys()


async def test_a_wrong_mesh_key_of_the_prober_is_no_fault_of_the_nodes(region: ProbedRegion, tmp_path: Path) -> None:
    other = tmp_path / "mesh.key"
    other.write_text("cd" * 32)
    assert red(await region.verdicts("-mesh-psk-file", str(other))) == set()


async def test_an_expired_certificate_is_red_for_tls_and_for_clients(tmp_path: Path) -> None:
    with ProbedRegion(tmp_path, "ours") as region:
        region.nodes[0].kill()
        life = timedelta(seconds=5)  # enough to start the server, which rejects an expired certificate
        expiry = datetime.now(UTC) + life
        region.authority.issue(region.nodes[0].folder, NAME, life)
        region.nodes[0].start()
        await asyncio.sleep((expiry - datetime.now(UTC)).total_seconds() + 1)  # until the certificate has expired
        told = await region.verdicts()
    assert red(told) == {"derp/test/900a/tls", "derp/test/900a/900a/mesh"}
    assert "certificate has expired" in told["derp/test/900a/tls"]
