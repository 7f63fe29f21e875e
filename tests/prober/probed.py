"""Regions for a prober: relays with STUN under the name localhost, meshed, ours and the reference's; and probers.

The reference's prober needs names, not addresses, so every node is `localhost` on its own port.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from http.client import HTTPConnection
from os import environ
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any, Final, Self

from authority import Authority
from region import MESH_KEY, GoNode, Node, OurNode
from relays import HOST, free_port

from derper.cli.environment import Environment
from derper.cli.goflags import parse
from derper.cli.probing import DERPPROBE_FLAGS, config_from
from derper.prober.app import probe_once
from derper.prober.clients import Keys
from derper.prober.config import ProberConfig

NAME: Final = "localhost"
SECONDS: Final = 20.0
QUICK: Final = ("-tls-interval", "2s", "-stun-interval", "2s", "-mesh-interval", "2s", "-spread=false")
"""Flags with which a failure takes at most 1.6 s."""

_PROGRAM: Final = "import sys; from derper.cli.derpprobe import main; sys.argv[0] = 'derpprobe'; sys.exit(main())"


class ProbedRegion(AbstractContextManager["ProbedRegion"]):
    """Several nodes in one region, indexed as in `kinds`: "ours" or "go"; with or without a mesh between them."""

    def __init__(self, folder: Path, *kinds: str, meshed: bool = True) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.mesh_key = folder / "mesh.key"
        self.mesh_key.write_text(MESH_KEY.to_text())
        ports: list[int] = []
        while len(ports) < 2 * len(kinds):
            ports = sorted({*ports, free_port()})
        self.ports, self.stun_ports = ports[: len(kinds)], ports[len(kinds) :]
        everybody = ",".join(f"{NAME}:{port}/{HOST}" for port in self.ports) if meshed else ""
        self.nodes: list[Node] = [
            self._node(kind, folder / str(at), port, stun_port, everybody)
            for at, (kind, port, stun_port) in enumerate(zip(kinds, self.ports, self.stun_ports, strict=True))
        ]

    def _node(self, kind: str, folder: Path, port: int, stun_port: int, mesh_with: str) -> Node:
        flags = ("-stun=true", "-stun-port", str(stun_port))
        made = GoNode if kind == "go" else OurNode
        return made(folder, port, self.authority, mesh_with, *flags, hostname=NAME)

    def map_nodes(self) -> list[dict[str, Any]]:
        """Return the nodes as in a DERP map: 900a, 900b and so on."""
        return [
            {
                "Name": f"900{letter}",
                "RegionID": 900,
                "HostName": NAME,
                "IPv4": HOST,
                "DERPPort": port,
                "STUNPort": stun_port,
            }
            for letter, port, stun_port in zip("abcdef", self.ports, self.stun_ports, strict=False)
        ]

    def flags(self, *flags: str, nodes: Sequence[dict[str, Any]] | None = None) -> list[str]:
        """Return the flags of a prober for these nodes; by default for the region's own."""
        return ["-derp-map", map_file(self.folder, self.map_nodes() if nodes is None else nodes), *flags]

    async def verdicts(self, *flags: str, nodes: Sequence[dict[str, Any]] | None = None) -> dict[str, str]:
        """Run each probe once; return the error by the probe's name, "" for a good one."""
        flags = ("-mesh-psk-file", str(self.mesh_key), *QUICK, *flags)
        return await verdicts(self.config(*self.flags(*flags, nodes=nodes)))

    def config(self, *flags: str) -> ProberConfig:
        """Return the configuration of a prober that trusts the nodes' authority."""
        return config_of(self.authority.file, *flags)

    async def meet(self) -> None:
        """Wait until the nodes forward to each other."""
        deadline = monotonic() + SECONDS
        quickly = ("-stun-interval=0", "-tls-interval=0", "-mesh-interval=1s")
        while any((wrong := await self.verdicts(*quickly)).values()):
            assert monotonic() < deadline, wrong

    def __enter__(self) -> Self:
        for node in sorted(self.nodes, key=lambda node: isinstance(node, GoNode)):
            node.start()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()


def map_file(folder: Path, nodes: Sequence[dict[str, Any]]) -> str:
    """Write a map of one region; return its URL."""
    region = {"RegionID": 900, "RegionCode": "test", "RegionName": "Test", "Nodes": list(nodes)}
    path = folder / "derpmap.json"
    path.write_text(json.dumps({"Regions": {"900": region}}))
    return f"file://{path}"


def config_of(roots: Path | None, *flags: str) -> ProberConfig:
    """Return a configuration as the program makes it."""
    variables = {} if roots is None else {"SSL_CERT_FILE": str(roots)}
    return config_from(parse(DERPPROBE_FLAGS, flags), Environment(variables, is_root=False, cores=2))


async def verdicts(config: ProberConfig) -> dict[str, str]:
    """Run each probe once, in this process; return the error by the probe's name, "" for a good one."""
    told = {}
    for probe in await probe_once(config, Keys.load(config)):
        assert probe.record.last is not None
        told[probe.name] = probe.record.last.error
    return told


def derpprobe(
    *flags: str, roots: Path | None = None, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *flags],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=surroundings(roots) | (env or {}),
    )


def command(*flags: str) -> list[str]:
    """Return the command that starts the program."""
    return [sys.executable, "-c", _PROGRAM, *flags]


def surroundings(roots: Path | None) -> dict[str, str]:
    """Return the environment of a prober: of our variables only the trusted roots."""
    inherited = {name: value for name, value in environ.items() if not name.startswith(("TS_", "TAILSCALE_", "SSL_"))}
    return inherited if roots is None else inherited | {"SSL_CERT_FILE": str(roots)}


class Started:
    """A prober that runs: its process, and where its pages are."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        """Request a page; return status, headers and text."""
        host, _, port = self.url.rpartition("/")[2].partition(":")
        with closing(HTTPConnection(host, int(port), timeout=SECONDS)) as connection:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            text = answer.read().decode()
        return answer.status, dict(answer.getheaders()), text

    def samples(self) -> dict[str, float]:
        """The metrics as they are now, by name and labels as they are written."""
        rows = (line.rpartition(" ") for line in self.get("/debug/varz")[2].splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in rows}

    def wait_for(self, name: str, wanted: float) -> None:
        """Return when a sample has reached a value."""
        deadline = monotonic() + SECONDS
        while (value := self.samples().get(name)) is None or value < wanted:
            assert monotonic() < deadline, f"{name} is {value}, not {wanted}"
            sleep(0.05)  # metrics have no notification, so poll


@contextmanager
def started(
    *flags: str, roots: Path | None = None, env: dict[str, str] | None = None, before: Sequence[str] = ()
) -> Iterator[Started]:
    """Start the program; it is ready when the block begins, and has ended after the block."""
    process = subprocess.Popen(
        [*before, *command(*flags)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=surroundings(roots) | (env or {}),
    )
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"event=probing .*status_page=(\S+)", line):
                break
        else:
            raise AssertionError(f"it did not start: {''.join(said)}")
        draining = Thread(target=process.stderr.read)
        draining.start()
        try:
            yield Started(process, f"http://{found[1]}")
        finally:
            process.kill()
            draining.join()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
