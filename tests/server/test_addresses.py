"""The addresses at which a server is reachable."""

import platform
import socket
import sys
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from bystanders import Bystanders
from derpwire import HOST, Client, Wire
from httpwire import read_answer, request
from serving import HERE, Server, ServerError


def test_without_a_host_a_server_serves_both_address_families_on_one_port(tmp_path: Path) -> None:
    with Server(tmp_path, "-a", ":0") as server:
        with Client.join(server.door) as client:
            client.ping()
        server.logged(r'event="client gone" .*remote=127\.0\.0\.1 ')
        if not _has_ipv6():
            pytest.skip("this machine has no IPv6")
        sock = socket.create_connection(("::1", server.port), timeout=10)
        with Client(Wire(sock)) as client:
            client.upgrade()
            client.log_in()
        server.logged(r'event="client gone" .*remote=::1 ')


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the filter knows two machines' call numbers"
)
def test_without_a_host_a_machine_without_ipv6_serves_ipv4(tmp_path: Path) -> None:
    refused = (sys.executable, str(HERE / "without_ipv6.py"))
    with Server(tmp_path, "-a", ":0", before=refused) as server:
        server.logged(r"event=serving .*address=0\.0\.0\.0:\d+")
        with Bystanders(server.door):
            pass


def test_an_ipv6_address_is_not_reachable_over_ipv4(tmp_path: Path) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    with Server(tmp_path, "-a", "[::1]:0") as server:
        with Wire(socket.create_connection(("::1", server.port), timeout=10)) as wire:
            wire.send(request("GET", "/generate_204"))
            assert read_answer(wire).status == 204
        with socket.socket() as sock:
            assert sock.connect_ex((HOST, server.port)) != 0


def test_an_ipv4_address_may_be_written_as_a_mapped_one(tmp_path: Path) -> None:
    with Server(tmp_path, "-a", f"[::ffff:{HOST}]:0", "-stun", "-stun-port=0") as server:
        server.logged(r'event="answering STUN" address=127\.0\.0\.1:')
        with Client.join(server.door) as client:
            client.ping()


def test_a_server_listens_on_a_link_local_address_with_its_interface(tmp_path: Path) -> None:
    address, interface = _link_local()
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    place = f"[{address}%{interface}]:0"
    words = ("-a", place, "-stun", "-stun-port=0", "-admin", place, "-admin-token-file", str(token))
    with Server(tmp_path, *words) as server:
        for event in ('"answering STUN"', '"serving admin"', "serving"):
            server.logged(rf"event={event} .*address=\[{address}%{interface}\]:\d+")
        sock = socket.create_connection((f"{address}%{interface}", server.port), timeout=10)
        with Client(Wire(sock)) as client:
            client.upgrade()
            client.log_in()
        server.logged(r'event="client gone" .*remote=fe80::')


def test_a_missing_interface_is_named_as_the_reason(tmp_path: Path) -> None:
    server = Server(tmp_path, "-a", "[fe80::1%nowhere]:0")
    with pytest.raises(ServerError, match="this machine has no network interface of that name"):
        server.start()
    assert server.exit_code() == 1


def _link_local() -> tuple[str, str]:
    """Return a link-local address of this machine and its interface."""
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        digits, _, _, scope, _, interface = line.split()
        if scope == "20":
            return str(IPv6Address(int(digits, 16))), interface
    pytest.skip("this machine has no link-local address")


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
