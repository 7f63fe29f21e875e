"""Bandwidth with TCP in TCP: a real TUN device in a network namespace, beside the relays. The tests need root."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import pytest
from authority import Authority
from probed import NAME, SECONDS, command, map_file, started, surroundings
from region import MESH_KEY, OurNode
from relays import HOST, free_port

ADDRESS: Final = "10.99.0.1"
FETCH: Final = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1]).read().decode())"


class Namespace:
    """Two meshed relays in their own network namespace."""

    def __init__(self, folder: Path) -> None:
        self.name = f"derpprobe-{os.getpid()}"
        self.inside = ("ip", "netns", "exec", self.name)
        authority = Authority(folder)
        ports = [free_port(), free_port()]
        mesh = ",".join(f"{NAME}:{port}/{HOST}" for port in ports)
        self.nodes = [
            OurNode(folder / str(at), port, authority, mesh, hostname=NAME, before=self.inside)
            for at, port in enumerate(ports)
        ]
        self.roots = authority.file
        (folder / "mesh.key").write_text(MESH_KEY.to_text())
        entries = [
            {"Name": f"900{letter}", "RegionID": 900, "HostName": NAME, "IPv4": HOST, "DERPPort": port, "STUNPort": -1}
            for letter, port in zip("ab", ports, strict=True)
        ]
        self.flags = (
            "-derp-map", map_file(folder, entries), "-mesh-psk-file", str(folder / "mesh.key"), "-tls-interval=0",
            "-bw-interval=4s", "-bw-tun-ipv4-addr", ADDRESS, "-spread=false",
        )  # fmt: skip

    def ip(self, *words: str) -> str:
        return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

    def run(self, *flags: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run the prober in the namespace until it ends."""
        return subprocess.run(
            [*self.inside, *before, *command(*self.flags, "-once", *flags)],
            capture_output=True,
            text=True,
            env=surroundings(self.roots),
            timeout=60,
            check=False,
        )

    def devices(self) -> list[str]:
        return re.findall(r"derpprobe\d+", self.ip("-n", self.name, "link"))


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    made = Namespace(tmp_path_factory.mktemp("tun"))
    made.ip("netns", "add", made.name)
    try:
        made.ip("-n", made.name, "link", "set", "lo", "up")
        with made.nodes[0], made.nodes[1]:
            deadline = monotonic() + SECONDS
            while made.run("-bw-interval=0").returncode:  # until they are meshed
                assert monotonic() < deadline
            yield made
    finally:
        made.ip("netns", "del", made.name)


def test_tcp_in_tcp_crosses_the_relays_between_all_pairs_at_once(namespace: Namespace) -> None:
    done = namespace.run("-json")
    told = json.loads(done.stdout)
    carried = {probe["name"]: probe for probe in told["probes"] if probe["class"] == "derp_bw"}
    assert {name: probe["error"] for name, probe in carried.items()} == {
        f"derp/test/900{node}/900{other}/bw": "" for node in "ab" for other in "ab"
    }
    assert {probe["labels"]["tcp_in_tcp"] for probe in carried.values()} == {"true"}
    assert done.returncode == 0
    assert namespace.devices() == []


def test_bytes_through_the_device_are_counted(namespace: Namespace) -> None:
    flags = (*namespace.flags, "-mesh-interval=0", "-listen", f"{HOST}:0")
    wanted = re.compile(r'^derpprobe_derp_bw_bytes_total\{.*name="derp/test/900a/900b/bw".*\} (\d+)$', re.MULTILINE)
    deadline = monotonic() + SECONDS
    with started(*flags, roots=namespace.roots, before=namespace.inside) as prober:
        count = 0
        while count < 1_000_000:
            assert monotonic() < deadline, count
            fetch = [*namespace.inside, sys.executable, "-c", FETCH, f"{prober.url}/debug/varz"]
            text = subprocess.run(fetch, check=True, capture_output=True, text=True).stdout
            count = int(found[1]) if (found := wanted.search(text)) else 0
            sleep(0.05)  # metrics have no notification, so poll
    assert count % 1_000_000 == 0


def test_a_prober_that_may_not_create_a_device_reports_it(namespace: Namespace) -> None:
    done = namespace.run("-mesh-interval=0", before=("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"))
    assert "run as root or with the capability NET_ADMIN" in done.stderr
    assert done.returncode == 1
