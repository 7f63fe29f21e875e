"""The admin listener: access over a socket and an address, rejected requests, and the pages left on public ports."""

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from live import Server, answer_to, config_of, serving

from derper.errors import ConfigError
from derper.server.debug import admin

TOKEN: Final = "correct-horse-battery"  # noqa: S105  a test's own
BEARER: Final = f"Authorization: Bearer {TOKEN}"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@asynccontextmanager
async def with_admin(folder: Path, *flags: str, **environ: str) -> AsyncIterator[Server]:
    async with serving(config_of(folder, "-hostname=derp.test", *flags, **environ)) as server:
        yield server


def put(path: Path, text: str) -> None:
    path.write_text(text)


async def ask(server: Server, method: str, path: str, *headers: str, host: str = "localhost") -> tuple[int, str]:
    assert server.parts.admin is not None
    place = server.parts.admin.address
    if place.startswith("unix:"):
        stream, out = await asyncio.open_unix_connection(place.removeprefix("unix:"))
    else:
        address, _, port = place.rpartition(":")
        stream, out = await asyncio.open_connection(address.strip("[]"), int(port))
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""]
    out.write("\r\n".join(lines).encode())
    head, _, body = (await stream.read()).decode().partition("\r\n\r\n")
    out.close()
    await out.wait_closed()
    assert "\nServer:" not in head
    return int(head.split()[1]), body


async def test_only_the_owner_can_use_the_socket_which_serves_every_page(tmp_path: Path) -> None:
    path = tmp_path / "run" / "admin.sock"
    async with with_admin(tmp_path, f"-admin=unix:{path}") as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert await ask(server, "GET", "/debug/check") == (200, "derp.Server ConsistencyCheck okay")
        assert "derp_accepts" in (await ask(server, "GET", "/debug/varz", host="whatever"))[1]
        assert "derp_accepts" not in (await ask(server, "HEAD", "/debug/varz"))[1]
        assert "TLS hostname" in (await ask(server, "GET", "/debug/"))[1]
        assert (await ask(server, "GET", "/"))[0] == 302
        assert (await ask(server, "GET", "/debug/nothing"))[0] == 404
        assert (await ask(server, "GET", "/derp/probe"))[0] == 404
    assert not path.exists()


async def test_the_default_socket_is_in_the_directory_made_by_systemd(tmp_path: Path) -> None:
    async with with_admin(tmp_path, "-admin=unix", RUNTIME_DIRECTORY=f"{tmp_path}/a:{tmp_path}/b") as server:
        assert server.parts.admin is not None
        assert server.parts.admin.address == f"unix:{tmp_path}/a/admin.sock"


@pytest.mark.parametrize("request_line", ["GET /debug/", "GET /debug/varz", "GET /debug/vars", "HEAD /debug/check"])
async def test_with_an_admin_listener_no_debug_page_is_on_the_public_port(request_line: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret")
    flags = (f"-admin=unix:{tmp_path}/s", "-dev=false")
    async with with_admin(tmp_path, *flags, TS_DEBUG_KEY_PATH=str(key), TS_ALLOW_DEBUG_IP="192.0.2.1") as server:
        for remote in ("127.0.0.1", "::1", "100.64.0.1", "192.0.2.1"):
            for query in ("", "?debugkey=s3cret"):
                head = f"{request_line}{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
                status, _, body = await answer_to(server.parts.http, head, remote)
                assert status == 403
                assert body in (b"", b"debug access denied\n")
        _, _, home = await answer_to(server.parts.http, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "127.0.0.1")
        assert b"/debug/" not in home


async def test_changes_need_post_and_over_the_socket_no_token(tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    rates.write_text('{"PerClientRateLimitBytesPerSec": 100000, "PerClientRateBurstBytes": 200000}')
    async with with_admin(tmp_path, f"-admin=unix:{tmp_path}/s", "-rate-config", str(rates)) as server:
        assert (await ask(server, "GET", "/reload"))[0] == 405
        assert await ask(server, "POST", "/reload") == (200, '{"failed": {}}')
        rates.write_text("{")
        status, body = await ask(server, "POST", "/reload")
        assert status == 500
        assert '"the rate limits": "' in body


async def test_on_an_address_pages_need_debug_access_and_changes_need_the_token(
    tmp_path: Path, token_file: Path
) -> None:
    flags = ("-admin=127.0.0.1:0", f"-admin-token-file={token_file}")
    async with with_admin(tmp_path, *flags) as server:
        assert (await ask(server, "GET", "/debug/check"))[0] == 200
        assert (await ask(server, "GET", "/debug/check", "X-Forwarded-For: 192.0.2.9"))[0] == 401
        assert (await ask(server, "GET", "/debug/check", "X-Forwarded-For: 192.0.2.9", BEARER))[0] == 200
        assert (await ask(server, "POST", "/reload"))[0] == 401
        assert (await ask(server, "POST", "/reload", BEARER))[0] == 200
        assert (await ask(server, "POST", "/reload", BEARER.replace("Bearer", "bearer")))[0] == 200


@pytest.mark.parametrize(
    "header",
    ["Authorization: Bearer", "Authorization: Bearer wrong-horse-battery", f"Authorization: Basic {TOKEN}",
     f"Authorization: {TOKEN}", f"Authorization: Bearer {TOKEN[:-1]}", f"X-Authorization: Bearer {TOKEN}"],
)  # fmt: skip
async def test_a_wrong_token_changes_nothing(header: str, tmp_path: Path, token_file: Path) -> None:
    async with with_admin(tmp_path, "-admin=127.0.0.1:0", f"-admin-token-file={token_file}") as server:
        assert (await ask(server, "POST", "/reload", header))[0] == 401
        assert (await ask(server, "POST", f"/reload?token={TOKEN}"))[0] == 401


async def test_without_a_token_no_change_is_possible_over_an_address(tmp_path: Path) -> None:
    async with with_admin(tmp_path, "-admin=localhost:0") as server:
        assert (await ask(server, "GET", "/debug/check"))[0] == 200
        assert (await ask(server, "POST", "/reload"))[0] == 401
        assert (await ask(server, "POST", "/reload", BEARER))[0] == 401


async def test_the_token_is_read_for_each_request(tmp_path: Path, token_file: Path) -> None:
    async with with_admin(tmp_path, "-admin=127.0.0.1:0", f"-admin-token-file={token_file}") as server:
        put(token_file, "another-horse-battery")
        assert (await ask(server, "POST", "/reload", BEARER))[0] == 401
        assert (await ask(server, "POST", "/reload", "Authorization: Bearer another-horse-battery"))[0] == 200
        put(token_file, "")
        assert (await ask(server, "POST", "/reload", BEARER))[0] == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("localhost:9090", 200), ("127.0.0.1:1", 200), ("[::1]:80", 200), ("derp.test", 200),
     ("evil.test", 403), ("", 403), ("127.0.0.1.evil.test", 403), ("localhost.evil.test", 403), ("[::1", 403)],
)  # fmt: skip
async def test_a_rebound_dns_name_shows_nothing_to_a_browser(host: str, status: int, tmp_path: Path) -> None:
    async with with_admin(tmp_path, "-admin=127.0.0.1:0") as server:
        assert (await ask(server, "GET", "/debug/check", host=host))[0] == status


@pytest.mark.parametrize("place", ["127.0.0.1:0", "unix"])
async def test_another_sites_page_cannot_change_anything_through_a_browser(place: str, tmp_path: Path) -> None:
    async with with_admin(tmp_path, f"-admin={place}", RUNTIME_DIRECTORY=str(tmp_path)) as server:
        for origin in ("https://evil.test", "null", "http://localhost:1", "http://localhost.evil.test"):
            assert (await ask(server, "POST", "/reload", f"Origin: {origin}"))[0] == 403
        status, _ = await ask(server, "POST", "/reload", "Origin: http://localhost")
        assert status == (200 if place == "unix" else 401)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-admin=:9090"], "can be reached from elsewhere and needs -admin-token-file"),
        (["-admin=0.0.0.0:9090"], "needs -admin-token-file"),
        (["-admin=192.0.2.1:9090"], "needs -admin-token-file"),
        (["-admin=unix"], "RuntimeDirectory=derper"),
        (["-admin=socket"], "is not one; write"),
        (["-admin-token-file=x"], "has no effect without -admin"),
    ],
)
def test_an_invalid_admin_address_is_an_error_of_one_sentence(flags: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of(tmp_path, "-hostname=a", *flags)


@pytest.mark.parametrize("content", [None, b"", b"short\n", b" " * 99])
async def test_a_missing_or_short_token_is_a_start_up_error(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="the admin token"):
        async with with_admin(tmp_path, "-admin=127.0.0.1:0", f"-admin-token-file={file}"):
            pass


async def test_an_impossible_socket_is_a_start_up_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, said in ((tmp_path / "file", "is not a socket"), (tmp_path / "file" / "s", "cannot listen"),
                       (tmp_path / ("a" * 120), "cannot listen")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            async with with_admin(tmp_path, f"-admin=unix:{path}"):
                pass


async def test_a_successor_takes_over_the_socket_and_keeps_it_when_the_old_server_ends(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with with_admin(tmp_path, f"-admin=unix:{path}"):
        successor = with_admin(tmp_path, f"-admin=unix:{path}")
        server = await successor.__aenter__()
    assert (await ask(server, "GET", "/debug/check"))[0] == 200
    await successor.__aexit__(None, None, None)
    assert not path.exists()


async def test_a_connection_without_an_allowed_request_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "FIRST_REQUEST", 0.2)
    monkeypatch.setattr(admin, "MOST_CONNECTIONS", 3)
    async with with_admin(tmp_path, "-admin=127.0.0.1:0") as server:
        assert server.parts.admin is not None
        port = int(server.parts.admin.address.rpartition(":")[2])
        kept = [await asyncio.open_connection("127.0.0.1", port)]
        kept[0][1].write(b"GET /debug/check HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await kept[0][0].readuntil(b"okay")).startswith(b"HTTP/1.1 200 OK\r\n")
        kept += [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        kept[1][1].write(b"GET /debug/check HTTP/1.1\r\nHost: evil.test\r\n\r\n")
        kept[2][1].write(b"GET /debug/check HTTP/1.1\r\nHost: loc")
        for stream, _ in kept[1:]:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await stream.readuntil(b"never")
        kept[0][1].write(b"GET /debug/check HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await kept[0][0].readuntil(b"okay")).count(b"200 OK") == 1
        for _, out in kept:
            out.close()


async def test_idle_connections_do_not_lock_an_operator_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "MOST_CONNECTIONS", 4)
    async with with_admin(tmp_path, "-admin=127.0.0.1:0") as server:
        assert server.parts.admin is not None
        port = int(server.parts.admin.address.rpartition(":")[2])
        held = [
            await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.0.{9 if n else 8}", 0))
            for n in range(12)
        ]
        assert await ask(server, "GET", "/debug/check") == (200, "derp.Server ConsistencyCheck okay")
        for stream, _ in held[1:9]:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await stream.readexactly(1)
        assert not held[0][0].at_eof(), "the only one of its address was not closed for them"
        held[0][1].write(b"GET /debug/check HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await held[0][0].readuntil(b"okay")).startswith(b"HTTP/1.1 200 OK\r\n")
        for _, out in held:
            out.close()
