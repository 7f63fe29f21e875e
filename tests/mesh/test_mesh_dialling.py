"""How a node dials the others: verification of names and certificates, and the log lines of failures."""

import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from authority import Authority
from derpwire import HOST, Client, new_key
from fakenode import FakeNode, Incoming
from httpwire import read_answer, request
from region import MESH_KEY, OurNode
from relays import free_port

from derper.config import MeshPeer
from derper.credentials.keys import key_file_bytes
from derper.errors import ConfigError
from derper.protocol.frames import ForwardPacket
from derper.protocol.keys import MeshKey

TRYING_AGAIN = "event=.mesh link down; retrying.*"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def fake(authority: Authority, tmp_path: Path) -> Iterator[FakeNode]:
    with FakeNode(tmp_path, authority) as node:
        yield node


def dialler(tmp_path: Path, authority: Authority, mesh_with: str) -> OurNode:
    return OurNode(tmp_path / "dialler", free_port(), authority, mesh_with)


def tries(node: OurNode, number: int) -> list[str]:
    """Return the node's log lines between failed attempts."""
    lines: list[str] = []
    at = 0
    for _ in range(number):
        line = node.logged(TRYING_AGAIN, at).string
        at = node.log().splitlines(keepends=True).index(line, at) + 1
        lines.append(line)
    return lines


def has_one_line_a_try(node: OurNode) -> bool:
    """Return whether its log has no other line since it serves, except its own node for the DERP map."""
    lines = node.log().splitlines()
    serving = next(at for at, line in enumerate(lines) if "event=serving" in line)
    others = [line for line in lines[serving + 1 :] if not re.search(TRYING_AGAIN, line)]
    return all("the node for the DERP map" in line or line.startswith('{"Name":') for line in others)


@pytest.mark.parametrize("listed", ["a/b/c", "a//", "/a", "a/", "a:0", "a:70000", "a:x/b", "a:", "a/dns:", "a//dns:b"])
def test_a_listed_node_with_a_wrong_slash_or_port_is_rejected(listed: str) -> None:
    with pytest.raises(ConfigError, match="-mesh-with has '" + re.escape(listed)):
        MeshPeer.parse(listed)


def test_a_list_of_nodes_with_a_mistake_in_it_is_a_start_up_error(tmp_path: Path) -> None:
    (tmp_path / "mesh.key").write_text(MESH_KEY.to_text())
    told = start_up_error(tmp_path, "-mesh-psk-file", str(tmp_path / "mesh.key"), "-mesh-with", "a,b/c,d/e/f")
    assert "-mesh-with has 'd/e/f'" in told


def test_nodes_without_a_mesh_key_are_a_start_up_error(tmp_path: Path) -> None:
    assert "-mesh-with needs a mesh key" in start_up_error(tmp_path, "-mesh-psk-file", "", "-mesh-with", "a,b")


def start_up_error(tmp_path: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "derper", "-a", f"{HOST}:0", "-http-port", "-1", "-stun=false"]
    command += ["-hostname", "localhost", "-c", str(tmp_path / "derper.key"), *flags]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, env=os.environ | {"HOME": str(tmp_path)}
    )
    assert ended.returncode != 0
    return ended.stderr.splitlines()[-1]


def test_the_name_before_the_slash_is_verified_and_the_one_after_it_dialled(
    authority: Authority, tmp_path: Path
) -> None:
    with (
        FakeNode(tmp_path, authority, "derp.region.test") as fake,
        dialler(tmp_path, authority, f"derp.region.test:{fake.port}/{HOST}") as ours,
        fake.link() as link,
    ):
        assert link.head.get("Host") == f"derp.region.test:{fake.port}"
        assert link.mesh_key == MESH_KEY
        linked = ours.logged("event=.mesh link up.*")
        assert f"node=derp.region.test:{fake.port}/{HOST}" in linked[0]
        assert f"key={fake.private.public()}" in linked[0]
        remote = new_key().public()
        link.announce(remote)
        with Client.join(ours.door) as client:
            ours.knows(3)
            client.send(remote, b"to somebody there")
            assert link.forwarded() == ForwardPacket(client.key, remote, b"to somebody there")


@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_each_attempt_logs_one_line_about_a_wrong_certificate(authority: Authority, tmp_path: Path, wrong: str) -> None:
    issuer = Authority(tmp_path / "stranger") if wrong == "authority" else authority
    name = HOST if wrong == "authority" else "derp.region.test"
    with FakeNode(tmp_path, issuer) as fake, dialler(tmp_path, authority, f"{name}:{fake.port}/{HOST}") as ours:
        for number in (1, 2):
            with pytest.raises(ssl.SSLError):
                fake.connection()
            assert "tls_error" in tries(ours, number)[-1]
        assert has_one_line_a_try(ours)


def no_tls(fake: FakeNode, answer: bytes) -> None:
    with fake.tcp() as sock:
        sock.recv(65_536)
        sock.sendall(answer)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(65_536)


def no_derp(fake: FakeNode, answer: bytes) -> None:
    with fake.connection() as wire:
        wire.head()
        wire.offer(answer)
        if not answer:
            wire.finish()
        wire.rest()


SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"
STRANGERS = (
    (no_tls, b"", "eof|reset"),
    (no_tls, b"220 mail.region.test ESMTP\r\n", "tls_error"),
    (no_derp, b"", "eof"),
    (no_derp, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
    (no_derp, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200"),
    (no_derp, b"\x00\x01\x02\r\n\r\n", "HTTP"),
    (no_derp, SWITCHING + b"\x06\0\0\0\0", "frame type 0x06"),
    (no_derp, SWITCHING + b"\x01\xff\xff\xff\xff", "4294967295"),
    (no_derp, SWITCHING + b"\x01\0\0\0\x28" + bytes(40), "magic"),
)


def test_each_attempt_logs_one_line_about_a_server_without_derp(authority: Authority, tmp_path: Path) -> None:
    with ExitStack() as stack:
        fakes = [stack.enter_context(FakeNode(tmp_path, authority)) for _ in STRANGERS]
        listed = ",".join(f"{HOST}:{fake.port}" for fake in fakes)
        ours = stack.enter_context(dialler(tmp_path, authority, listed))
        for _ in range(2):
            for fake, (answers, answer, _) in zip(fakes, STRANGERS, strict=True):
                answers(fake, answer)
        for fake, (_, answer, reason) in zip(fakes, STRANGERS, strict=True):
            line = ours.logged(rf"{TRYING_AGAIN}node={HOST}:{fake.port} .*")[0]
            assert re.search(f"reason=.*({reason})", line), (answer, line)
        assert has_one_line_a_try(ours)


@pytest.mark.parametrize("key", ["another", "no"])
def test_each_attempt_logs_one_line_about_a_rejected_mesh_key(authority: Authority, tmp_path: Path, key: str) -> None:
    port = free_port()
    flags = ("-mesh-psk-file", "") if key == "no" else ()
    other_key = MeshKey.from_text("cd" * 32)
    with (
        OurNode(tmp_path / "other", port, authority, "", *flags, mesh_key=other_key) as other,
        dialler(tmp_path, authority, f"{HOST}:{port}") as ours,
    ):
        other.logged("client gone.*insufficient permissions")
        for line in tries(ours, 2):
            assert "mesh key" in line
        assert has_one_line_a_try(ours)


def links(node: OurNode) -> dict[str, int]:
    """Return the number of a node's links by state, from its metrics."""
    with node.door.connect() as wire:
        wire.send(request("GET", "/debug/varz", "Connection: close"))
        text = read_answer(wire).body.decode()
    assert "# TYPE derper_mesh_links gauge\n" in text
    found = re.findall(r'^derper_mesh_links{state="(.*)"} (.*)$', text, re.MULTILINE)
    return {state: int(value) for state, value in found}


def test_links_are_counted_by_state(authority: Authority, tmp_path: Path) -> None:
    private = new_key()
    (tmp_path / "dialler").mkdir()
    (tmp_path / "dialler" / "derper.key").write_bytes(key_file_bytes(private))
    with (
        FakeNode(tmp_path, authority) as fake,
        FakeNode(tmp_path, authority, private=private) as ourselves,
        dialler(tmp_path, authority, f"{HOST}:{fake.port},{HOST}:{ourselves.port},{HOST}:{free_port()}") as ours,
    ):
        with ourselves.connection() as wire:
            Incoming(wire, private).greet()
            ours.logged("not dialling it again")
        with fake.link():
            ours.logged("event=.mesh link up")
            ours.logged(TRYING_AGAIN)
            states = links(ours)
            assert (states["up"], states["ourselves"]) == (1, 1)
            assert states["dialling"] + states["down"] == 1
            mark = ours.mark()
        ours.logged(rf"{TRYING_AGAIN}node={HOST}:{fake.port}", mark)
        assert links(ours)["up"] == 0


def test_a_node_that_dials_itself_under_any_name_gives_up(authority: Authority, tmp_path: Path) -> None:
    private = new_key()
    (tmp_path / "dialler").mkdir()
    (tmp_path / "dialler" / "derper.key").write_bytes(key_file_bytes(private))
    with (
        FakeNode(tmp_path, authority, private=private) as fake,
        dialler(tmp_path, authority, f"{HOST}:{fake.port}") as ours,
    ):
        with fake.connection() as wire:
            Incoming(wire, private).greet()
            assert wire.rest() == b""
        ours.logged("not dialling it again")
        assert "mesh link down; retrying" not in ours.log()
