"""Access to the debug pages: each allowed way and each rejected one. `test_recorded_pages` has the recorded cases."""

from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Final

import pytest
from live import answer_to, config_of, serving
from recorded import recorded_server

from derper.config import DebugAccess
from derper.web.access import is_trusted

OTHER: Final = "192.0.2.99"


NOBODY: Final = DebugAccess(None, (), None)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1", "100.64.0.0", "100.127.255.255", "::ffff:100.64.0.9",
     "fd7a:115c:a1e0::", "fd7a:115c:a1e0:ffff:ffff:ffff:ffff:ffff"],
)  # fmt: skip
def test_loopback_and_tailscale_addresses_are_trusted(address: str) -> None:
    assert is_trusted(ip_address(address), NOBODY)


@pytest.mark.parametrize(
    "address",
    ["100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "10.0.0.1", "192.168.1.1", "169.254.0.1",
     "0.0.0.0", "::", "fe80::1", "fd7a:115c:a1e1::", "fd7a:115c:a1df:ffff::", "::ffff:192.0.2.99", "64:ff9b::7f00:1",
     "::127.0.0.1", "2002:7f00:1::"],
)  # fmt: skip
def test_no_other_address_is_trusted_unless_configured(address: str) -> None:
    assert not is_trusted(ip_address(address), NOBODY)


@pytest.mark.parametrize("allowed", ["192.0.2.98", "::ffff:192.0.2.98"])
@pytest.mark.parametrize("remote", ["192.0.2.98", "::ffff:192.0.2.98"])
def test_an_allowed_address_matches_in_both_of_its_forms(allowed: str, remote: str) -> None:
    assert is_trusted(ip_address(remote), DebugAccess(ip_address(allowed), (), None))


def test_addresses_next_to_a_trusted_network_are_not_trusted() -> None:
    access = DebugAccess(None, (ip_network("198.51.100.0/24"), ip_network("2001:db8:7::/48")), None)
    assert is_trusted(ip_address("198.51.100.255"), access)
    assert is_trusted(ip_address("::ffff:198.51.100.0"), access)
    assert is_trusted(ip_address("2001:db8:7:ffff::1"), access)
    assert not is_trusted(ip_address("198.51.101.0"), access)
    assert not is_trusted(ip_address("2001:db8:8::"), access)
    assert not is_trusted(ip_address("::"), DebugAccess(None, (IPv4Network("0.0.0.0/0"),), None))


def check(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *headers, "", ""]).encode()


@pytest.mark.parametrize(
    "query", ["", "?debugkey=", "?debugkey=%20", "?debugkey=s3cret-key%0A", "?DebugKey=s3cret-key", "?debugkey=%FF"]
)
async def test_a_wrong_key_gives_no_access(query: str, tmp_path: Path) -> None:
    async with recorded_server("debug-access", tmp_path) as server:
        assert (await answer_to(server.parts.http, check(f"/debug/check{query}"), OTHER))[0] == 403


@pytest.mark.parametrize("content", [None, b"", b" \n"])
async def test_a_key_file_without_a_key_gives_no_access(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "debugkey"
    if content is not None:
        file.write_bytes(content)
    async with serving(config_of(tmp_path, "-hostname=a", TS_DEBUG_KEY_PATH=str(file))) as server:
        for query in ("", "?debugkey=", "?debugkey=x"):
            assert (await answer_to(server.parts.http, check(f"/debug/check{query}"), OTHER))[0] == 403


async def test_the_key_is_read_for_each_request(tmp_path: Path) -> None:
    async with recorded_server("debug-access", tmp_path) as server:
        assert (await answer_to(server.parts.http, check("/debug/check?debugkey=s3cret-key"), OTHER))[0] == 200
        (tmp_path / "debugkey").write_text("other")
        assert (await answer_to(server.parts.http, check("/debug/check?debugkey=s3cret-key"), OTHER))[0] == 403
        assert (await answer_to(server.parts.http, check("/debug/check?debugkey=other"), OTHER))[0] == 200


@pytest.mark.parametrize("headers", [["X-Forwarded-For: 127.0.0.1"], ["x-forwarded-for:", "X-FORWARDED-FOR: ::1"]])
async def test_behind_a_proxy_loopback_is_not_trusted(headers: list[str], tmp_path: Path) -> None:
    async with recorded_server("plain", tmp_path) as server:
        assert (await answer_to(server.parts.http, check("/debug/varz", *headers), "127.0.0.1"))[0] == 403


@pytest.mark.parametrize(
    "target", ["/%64ebug/varz", "//debug/varz", "/debug/../debug/varz", "/debug%2Fvarz", "/DEBUG/varz"]
)
async def test_no_spelling_of_a_path_bypasses_the_access_rules(target: str, tmp_path: Path) -> None:
    async with recorded_server("plain", tmp_path) as server:
        _, _, body = await answer_to(server.parts.http, check(target), OTHER)
        assert b"derp_accepts" not in body


async def test_the_home_page_links_the_debug_pages_only_for_allowed_clients(tmp_path: Path) -> None:
    async with recorded_server("plain", tmp_path) as server:
        assert b'"/debug/"' in (await answer_to(server.parts.http, check("/"), "127.0.0.1"))[2]
        assert b'"/debug/"' not in (await answer_to(server.parts.http, check("/"), OTHER))[2]
