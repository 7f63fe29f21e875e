"""`-once` on the recorded maps of the reference's prober, with real relays in place of the recorded ones."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from probed import NAME, ProbedRegion, verdicts
from region import OurNode
from relays import HOST, free_port

VECTORS: Final = Path(__file__).parents[1] / "vectors" / "prober_map.json"
MAPS: Final = json.loads(VECTORS.read_text())["maps"]
OTHER: Final = "127.0.0.2"
PINNED: Final = "192.0.2.99"

# Errors of the reference only: an invalid address, and the name in a handshake with an address.
ONLY_THERE: Final = {
    'IPv6 "none" makes a probe that fails': {"derp/test/900a/udp6"},
    "self-signed IP address node with a pin: the TLS probe knows no pins, and the mesh probe wants a server name": {
        "derp/test/900c/900c/mesh"
    },
}


class Stage:
    """A region of two nodes, a node that is trusted only by its pin, and one with an unused name."""

    def __init__(self, folder: Path) -> None:
        self.region = ProbedRegion(folder / "region", "ours", "ours")
        self.pinned = OurNode(
            folder / "pinned", free_port(), self.region.authority, "", "-stun=true", "-stun-port", str(free_port())
        )
        # Without the authority's certificate the node makes a self-signed one.
        for path in self.pinned.folder.glob(f"{HOST}.*"):
            path.unlink()
        self.stranger = OurNode(
            folder / "stranger", self.region.ports[0], self.region.authority, "", "-a",
            f"{OTHER}:{self.region.ports[0]}", "-stun=true", "-stun-port",
            str(self.region.stun_ports[0]), hostname="derp2.example.test",
        )  # fmt: skip

    def translated(self, node: dict[str, Any]) -> dict[str, Any]:
        """Return a node of a recorded map with its address here."""
        if node["HostName"] == PINNED:
            pin = self.pinned.logged(r'"CertName":"(sha256-raw:[0-9a-f]{64})"')[1]
            stun_port = int(self.pinned.command[-1])
            return node | {"HostName": HOST, "IPv4": HOST, "DERPPort": self.pinned.port, "STUNPort": stun_port} | (
                {"CertName": pin}
            )  # fmt: skip
        at = 1 if node["HostName"].startswith("derp2") else 0
        here = {"HostName": NAME, "DERPPort": self.region.ports[at]}
        if "STUNPort" not in node:
            here["STUNPort"] = self.region.stun_ports[at]
        if "IPv4" in node:
            here["IPv4"] = HOST
        if "CertName" in node:
            here |= {"IPv4": OTHER, "STUNPort": self.region.stun_ports[0]}
        return node | here


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("maps"))
    with made.region, made.pinned, made.stranger:
        asyncio.run(made.region.meet())
        yield made


def written(stage: Stage, case: dict[str, Any], folder: Path) -> Path:
    path = folder / "map.json"
    text = case.get("map_text")
    if text is None:
        derp_map = json.loads(json.dumps(case["map"]))
        for region in derp_map.get("Regions", {}).values():
            region["Nodes"] = [stage.translated(node) for node in region["Nodes"]]
        text = json.dumps(derp_map)
    path.write_text(text)
    return path


def names(told: list[str]) -> set[str]:
    return {line.partition(": ")[0] for line in told}


@pytest.mark.parametrize("case", [case for case in MAPS if "http" not in case["name"]], ids=lambda case: case["name"])
async def test_a_recorded_map_has_the_same_good_and_bad_probes(
    case: dict[str, Any], stage: Stage, tmp_path: Path
) -> None:
    path = written(stage, case, tmp_path)
    flags = [flag.replace("mesh.key", str(stage.region.mesh_key)).replace("3s", "2s") for flag in case["flags"]]
    told = await verdicts(stage.region.config("-derp-map", f"file://{path}", *flags))
    only_there = ONLY_THERE.get(case["name"], set())
    skipped = {name for name in only_there if name.endswith("udp6")}
    assert {name for name, error in told.items() if not error} == {*case["good"], *(only_there - skipped)}
    assert {name for name, error in told.items() if error} == names(case["bad"]) - only_there
