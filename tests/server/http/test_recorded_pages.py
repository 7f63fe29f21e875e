"""Every page recorded with the reference, from any address, is the same here; a test covers each recording."""

from pathlib import Path
from typing import Final

import pytest
import test_bootstrap_dns
import test_connect
import test_http_exchanges
import test_port80
from recorded import RECORDED, Exchange, called, differences, exchanges, path_of, recorded_server

SERVERS: Final = ("plain", "dev", "derp-off", "home-blank", "home-url", "debug-access", "prod-name")
ELSEWHERE: Final = {
    "/debug/gc": "there is no collector to be run by hand",
    "/debug/set-mutex-profile-fraction": "there are no mutexes to be profiled",
    "/debug/clients": "has tests of its own",
    "/debug/clients/": "has tests of its own",
}
"""Pages that this server does not have, or that were requested with clients connected."""
BETTER: Final = "/debug/check while a key has two connections: the reference finds fault"


def is_page(exchange: Exchange) -> bool:
    """Return whether the exchange is a plain page request: valid, no upgrade, no DNS names needed."""
    line = exchange.get("request", "").split("\r\n")[0]
    answered = exchange["status_line"] is not None and " 101 " not in exchange["status_line"]
    is_request = line.endswith(("HTTP/1.1", "HTTP/1.0")) and exchange["name"] != "no Host header"
    is_request = is_request and "second_answer" not in exchange
    is_here = path_of(exchange) not in ("/bootstrap-dns", *ELSEWHERE) and exchange["name"] != BETTER
    upgrades = path_of(exchange) == "/derp" and exchange["server"] != "derp-off"
    return answered and is_request and is_here and not upgrades and not line.startswith("CONNECT ")


PAGES: Final = {name: list(filter(is_page, exchanges(name))) for name in SERVERS}


@pytest.mark.parametrize("name", SERVERS)
async def test_the_pages_equal_the_recorded_ones_from_every_address(name: str, tmp_path: Path) -> None:
    async with recorded_server(name, tmp_path) as server:
        found = {called(exchange): await differences(server.parts.http, exchange) for exchange in PAGES[name]}
    assert found
    found.get("plain, other: home page, HEAD", {}).pop("header Content-Length", None)  # our page has a different text
    assert {exchange: differing for exchange, differing in found.items() if differing} == {}


def test_every_recorded_exchange_is_tested() -> None:
    modules = (test_bootstrap_dns.EXCHANGES, test_connect.REFUSED, test_http_exchanges.CASES, test_port80.PLAYED)
    played = [*(case for cases in modules for case in cases), *(case for cases in PAGES.values() for case in cases)]
    left = [exchange for exchange in RECORDED["exchanges"] if exchange not in played]
    assert {path_of(exchange) for exchange in left if exchange["name"] != BETTER} - ELSEWHERE.keys() == {
        "/derp",  # WebSockets: tests/websocket
        "controlplane.tailscale.com:80",  # the opened tunnel: test_connect has it with other bytes
        "/robots.txt",  # of the server with -ace; over TLS in test_http_exchanges
    }
