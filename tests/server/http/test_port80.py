"""The plain HTTP listener beside TLS: the recorded exchanges of the reference, and exchanges over real sockets."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from live import Server, answer_to, config_of, serving
from recorded import RECORDED, Exchange, called, differences, exchanges

from derper.config import CertMode, Config
from derper.errors import ConfigError
from derper.server.certificates.challenges import Challenges
from derper.server.http import port80
from derper.server.http.connection import HttpServer

TOKEN: Final = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"  # noqa: S105  public by its nature
PLAYED: Final = exchanges("tls-ip:80", "letsencrypt:80", "letsencrypt-prod-name:80")
ABSOLUTE: Final = "port 80: absolute URL in the request line"
CONNECT: Final = "port 80: CONNECT"  # is handled before the pages

MAY_DIFFER: Final = {
    ABSOLUTE: {"header Location", "header Content-Length", "body"},  # the reference appends one URL to the other
}


def tls_config(folder: Path, *flags: str) -> Config:
    return config_of(folder, "-certmode=manual", "-certdir", str(folder), "-hostname=127.0.0.1", "-http-port=0", *flags)


@asynccontextmanager
async def port_80_of(name: str, folder: Path) -> AsyncIterator[tuple[HttpServer, Challenges | None]]:
    """Yield the pages of a recorded server's plain listener, with challenges if certificates come from ACME."""
    if name == "tls-ip:80":
        async with serving(tls_config(folder)) as server:
            assert server.parts.http_beside is not None
            yield server.parts.http_beside, None
        return
    flags = RECORDED["servers"][name.removesuffix(":80")]["flags"]
    hostname = flags[flags.index("-hostname") + 1] if "-hostname" in flags else "derp.tailscale.com"
    config = config_of(folder, "-hostname", hostname)
    assert config.tls.mode is CertMode.LETSENCRYPT
    challenges = Challenges(config.tls)
    http = HttpServer(relays=False)
    await http.start(port80.application(config, [], challenges))
    yield http, challenges
    await http.stop()


@pytest.mark.parametrize("exchange", [case for case in PLAYED if case["name"] != CONNECT], ids=called)
async def test_a_recorded_request_to_port_80_gets_the_recorded_answer(exchange: Exchange, tmp_path: Path) -> None:
    async with port_80_of(exchange["server"], tmp_path) as (http, _):
        found = await differences(http, exchange)
    assert {name: both for name, both in found.items() if name not in MAY_DIFFER.get(exchange["name"], ())} == {}


async def test_a_target_in_absolute_form_is_redirected_to_the_same_path_over_https(tmp_path: Path) -> None:
    async with port_80_of("tls-ip:80", tmp_path) as (http, _):
        head = b"GET http://192.0.2.10/x?y HTTP/1.1\r\nHost: 192.0.2.10\r\n\r\n"
        _, headers, _ = await answer_to(http, head, "192.0.2.99")
    assert headers["Location"] == "https://192.0.2.10/x?y"


@pytest.mark.parametrize("host", ["le.example.test", "LE.example.test", "le.example.test:5002"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_pending_challenge_is_answered_and_a_finished_one_is_not(
    host: str, method: str, tmp_path: Path
) -> None:
    head = f"{method} /.well-known/acme-challenge/{TOKEN} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    async with port_80_of("letsencrypt:80", tmp_path) as (http, challenges):
        assert challenges is not None
        challenges.put(TOKEN, f"{TOKEN}.thumbprint")
        status, headers, body = await answer_to(http, head, "192.0.2.99")
        assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        assert body == (f"{TOKEN}.thumbprint".encode() if method == "GET" else b"")
        challenges.drop(TOKEN)
        assert (await answer_to(http, head, "192.0.2.99"))[0] == 404


def test_an_address_has_challenges_only_with_certificates_for_addresses(tmp_path: Path) -> None:
    tls = config_of(tmp_path, "-hostname=le.example.test").tls
    status: Any = Challenges(tls).answer("192.0.2.10", TOKEN)
    assert status.status == 403
    status = Challenges(replace(tls, acme=replace(tls.acme, ip_certificates=True))).answer("[2001:db8::1]:80", TOKEN)
    assert status.status == 404


def test_a_host_header_of_odd_letters_is_answered_in_ascii(tmp_path: Path) -> None:
    refusal: Any = Challenges(config_of(tmp_path, "-hostname=le.example.test").tls).answer('\xe9"\x01', TOKEN)
    assert refusal.body == 'acme/autocert: host "\\xe9\\"\\x01" not configured in HostWhitelist\n'


async def ask(port: int, request: bytes) -> bytes:
    stream, out = await asyncio.open_connection("127.0.0.1", port)
    out.write(request)
    answer = await stream.read()
    out.close()
    await out.wait_closed()
    return answer


def plain_port(server: Server) -> int:
    return int(server.parts.listening.http_address.rpartition(":")[2])


async def test_both_listeners_serve_their_own_pages_at_once(tmp_path: Path) -> None:
    async with serving(tls_config(tmp_path)) as server:
        status, body = await server.get("/robots.txt")
        assert (status, body) == (200, "User-agent: *\nDisallow: /\n")
        head = b"GET /robots.txt?a HTTP/1.1\r\nHost: derp.test:81\r\nConnection: close\r\n\r\n"
        answer = await ask(plain_port(server), head)
        assert answer.startswith(b"HTTP/1.1 302 Found\r\n")
        assert b"\r\nLocation: https://derp.test:81/robots.txt?a\r\n" in answer
        assert b"Server:" not in answer


async def test_port_80_does_not_serve_the_relay(tmp_path: Path) -> None:
    async with serving(tls_config(tmp_path)) as server:
        head = b"GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n"
        stream, out = await asyncio.open_connection("127.0.0.1", plain_port(server))
        out.write(head)
        assert (await stream.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 302 Found\r\n")
        out.close()
        assert await server.sample("derp_accepts") == 0


async def test_connect_gets_the_recorded_answer(tmp_path: Path) -> None:
    async with serving(tls_config(tmp_path)) as server:
        (case,) = [case for case in PLAYED if case["name"] == CONNECT]
        head, _, body = (await ask(plain_port(server), case["request"].encode())).decode().partition("\r\n\r\n")
        status_line, *lines = head.split("\r\n")
        assert (status_line, body) == (case["status_line"], case["body"])
        ours = dict(line.split(": ") for line in lines)
        assert ours | {"Date": "{date}"} == dict(case["headers"])


async def test_each_request_on_a_kept_connection_gets_its_page(tmp_path: Path) -> None:
    async with serving(tls_config(tmp_path)) as server:
        heads = [b"GET /x", b"POST /x", b"HEAD /generate_204", b"GET /debug/check", b"GET /debug"]
        last = b"GET /x HTTP/1.0\r\n\r\n"
        answer = await ask(plain_port(server), b"".join(h + b" HTTP/1.1\r\nHost: a\r\n\r\n" for h in heads) + last)
    assert re.findall(r"HTTP/1\.[01] ([0-9]+)", answer.decode()) == ["302", "400", "204", "200", "307", "302"]


async def test_a_port_in_use_is_a_start_up_error_that_names_the_flag(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = tls_config(tmp_path, f"-http-port={taken.getsockname()[1]}")
        with pytest.raises(ConfigError, match=r"another program uses that port.*-http-port \(-1 for none\)"):
            async with serving(config):
                pass


async def test_without_tls_there_is_no_second_listener(tmp_path: Path) -> None:
    async with serving(config_of(tmp_path, "-hostname=a", "-http-port=0")) as server:
        assert server.parts.listening.http_address == ""
        assert server.parts.http_beside is None
