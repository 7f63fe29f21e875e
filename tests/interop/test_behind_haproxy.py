"""Behind the real HAProxy, which forwards TCP with PROXY headers of both versions, and does its own health checks."""

import csv
import io
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from derpwire import HOST, SECONDS, Client, RelayAddress, Wire
from httpwire import read_answer, request
from relays import free_port
from serving import Server

from derper.protocol.frames import PeerPresent, WatchConns
from derper.protocol.keys import MeshKey
from derper.protocol.login import ClientInfo

PROXY = "127.0.0.2"  # HAProxy's source address
CLIENT = "127.0.0.3"  # source address of HAProxy's clients
MESH_KEY = MeshKey.from_text("cd" * 32)
CONFIG = """
global
    stats socket {folder}/stats.sock level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
    timeout check 10s
    default-server source {proxy} check inter 200ms
listen v1
    bind {host}:{v1}
    bind unix@{folder}/v1.sock
    option httpchk GET /robots.txt
    server derper {host}:{port} send-proxy check-send-proxy {check}
listen v2
    bind {host}:{v2}
    bind unix@{folder}/v2.sock
    option httpchk GET /robots.txt
    server derper {host}:{port} send-proxy-v2 proxy-v2-options unique-id,crc32c,authority check-send-proxy {check}
listen without
    bind {host}:{without}
    server derper {host}:{port} no-check
"""


@dataclass
class Behind:
    """A server, and HAProxy in front of it."""

    server: Server
    folder: Path
    ports: dict[str, int]  # of HAProxy's frontends, by name

    def come(self, name: str) -> Wire:
        """Return a connection to a frontend of HAProxy, from the clients' address; with TLS if the server uses it."""
        sock = socket.create_connection((HOST, self.ports[name]), SECONDS, source_address=(CLIENT, 0))
        tls = self.server.door.tls
        return Wire(sock if tls is None else tls.wrap_socket(sock, server_hostname=HOST))

    def come_by_file(self, name: str) -> Wire:
        """Return a connection without an address, over a Unix socket."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(SECONDS)
        sock.connect(str(self.folder / f"{name}.sock"))
        tls = self.server.door.tls
        return Wire(sock if tls is None else tls.wrap_socket(sock, server_hostname=HOST))

    def health(self, name: str) -> str:
        """Return HAProxy's status of the server after its first check."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(str(self.folder / "stats.sock"))
                asking.sendall(b"show stat\n")
                rows = csv.DictReader(io.StringIO(asking.makefile().read().removeprefix("# ")))
            status = next(row["check_status"] for row in rows if (row["pxname"], row["svname"]) == (name, "derper"))
            if status and not status.startswith("*") and status != "INI":
                return status
        raise AssertionError("HAProxy has not looked")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "TLS"])
def behind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    tls: bool = request.param
    folder = tmp_path_factory.mktemp("haproxy")
    ports = {name: free_port() for name in ("v1", "v2", "without")}
    with Server(folder, "-proxy-protocol", f"{PROXY}/32, 192.0.2.0/24", tls=tls, mesh_key=MESH_KEY) as server:
        check = "check-ssl verify none" if tls else ""
        text = CONFIG.format(folder=folder, host=HOST, proxy=PROXY, port=server.port, check=check, **ports)
        (folder / "haproxy.cfg").write_text(text)
        haproxy = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(folder / "haproxy.cfg")])
        try:
            deadline = time.monotonic() + SECONDS
            while not (folder / "stats.sock").exists():
                assert haproxy.poll() is None, "HAProxy has ended"
                assert time.monotonic() < deadline
            yield Behind(server, folder, ports)
        finally:
            haproxy.terminate()
            haproxy.wait()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_client_relays_and_has_its_own_address(behind: Behind, version: str) -> None:
    info = ClientInfo(mesh_key=MESH_KEY)
    with Client.join(behind.server.door, info=info) as watcher, Client(behind.come(version)) as client:
        watcher.wire.send(WatchConns().encode())
        watcher.next()  # itself
        since = behind.server.mark()
        client.upgrade()
        client.log_in()
        seen = watcher.next()
        assert isinstance(seen, PeerPresent)
        assert seen.endpoint is not None
        port: int = client.wire.sock.getsockname()[1]
        assert (seen.peer, seen.endpoint.ip, seen.endpoint.port) == (client.key, ip_address(CLIENT), port)
        client.send(watcher.key, b"through the proxy")
        assert watcher.packet().packet == b"through the proxy"
        watcher.send(client.key, bytes(60_000))
        assert client.packet().packet == bytes(60_000)
    behind.server.logged(rf'event="client gone" .*remote={re.escape(CLIENT)}', since)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_health_checks_of_haproxy_succeed(behind: Behind, version: str) -> None:
    assert behind.health(version) == "L7OK"


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_loopback_clients_see_the_debug_pages_and_clients_without_an_address_do_not(
    behind: Behind, version: str
) -> None:
    with behind.come(version) as wire:
        wire.send(request("GET", "/debug/"))
        assert read_answer(wire).status == 200
    with behind.come_by_file(version) as wire:
        wire.send(request("GET", "/debug/"))
        assert read_answer(wire).status == 403


def refused(behind: Behind, port: int, first: bytes) -> None:
    """Expect a clean close of a connection that begins with `first`, and the reason in the log."""
    since = behind.server.mark()
    with RelayAddress(port).connect() as wire:
        wire.send(first)
        assert wire.rest() == b""
    behind.server.logged("reason=proxy_header", since)


FORGED = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + request("GET", "/debug/")


def test_a_proxys_connection_without_a_header_is_rejected(behind: Behind) -> None:
    refused(behind, behind.ports["without"], request("GET", "/"))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_clients_own_proxy_header_is_rejected(behind: Behind, version: str) -> None:
    refused(behind, behind.ports[version], FORGED)
    refused(behind, behind.server.port, FORGED)


def test_direct_connections_are_served(behind: Behind) -> None:
    with Client.join(behind.server.door) as client:
        assert client.fence() == []
