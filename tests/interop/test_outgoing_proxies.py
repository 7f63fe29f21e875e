"""Requests to other servers, and only these, go through the proxy in the environment.

The proxies are tinyproxy for HTTP and microsocks for SOCKS5. The requested servers are at 0.0.0.0, an address of this
machine other than loopback: requests to loopback never use a proxy.
"""

import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import pytest
from probed import derpprobe
from realclient import check
from relays import HOST, GoDerper, OurDerper, Relay, free_port
from serving import Server
from test_proxy_recipes import running
from test_real_setec import NAME, setec
from verifier import ALLOW

OUTSIDE = "0.0.0.0"
KINDS = pytest.mark.parametrize("kind", [OurDerper, GoDerper], ids=lambda kind: kind.name)


class Proxy:
    """A running proxy and its requests."""

    def __init__(self, port: int, log: Path) -> None:
        self.environ = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), f"http://{HOST}:{port}")
        self._log = log

    def asked(self) -> list[tuple[str, str]]:
        """Return methods and targets so far."""
        return re.findall(r"Request \(file descriptor \d+\): (\S+) (\S+) HTTP", self._log.read_text())

    def wait_for(self, method: str, target: str) -> None:
        deadline = monotonic() + 20
        while (method, target) not in self.asked():
            assert monotonic() < deadline, self.asked()
            sleep(0.05)  # only the log shows it


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    port, log = free_port(), tmp_path / "proxy.log"
    config = tmp_path / "tinyproxy.conf"
    config.write_text(f'Port {port}\nListen {HOST}\nTimeout 60\nLogFile "{log}"\nLogLevel Connect\n')
    with running("tinyproxy", "-d", "-c", str(config), port=port):
        yield Proxy(port, log)


class Socks:
    """A SOCKS5 proxy, and the addresses that it connected to."""

    def __init__(self, scheme: str, port: int, log: Path) -> None:
        self.environ = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), f"{scheme}://{HOST}:{port}")
        self._log = log

    def wait_for(self, target: str) -> None:
        deadline = monotonic() + 60
        while f"connected to {target}" not in self._log.read_text():
            assert monotonic() < deadline, self._log.read_text()
            sleep(0.05)  # only its log shows it


@pytest.fixture(params=["socks5", "socks5h"])
def socks(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Socks]:
    port, log = free_port(), tmp_path / "socks.log"
    with log.open("wb") as out, running("microsocks", "-i", HOST, "-p", str(port), port=port, output=out):
        yield Socks(request.param, port, log)


class Allows(BaseHTTPRequestHandler):
    """A controller that admits all clients."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(ALLOW)))
        self.end_headers()
        self.wfile.write(ALLOW)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def controller() -> Iterator[int]:
    with ThreadingHTTPServer((OUTSIDE, 0), Allows) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@KINDS
@pytest.mark.parametrize("host", [OUTSIDE, HOST])
def test_a_controller_is_asked_through_the_proxy_unless_it_is_on_this_machine(
    kind: type[Relay], host: str, proxy: Proxy, controller: int, tmp_path: Path
) -> None:
    url = f"http://{host}:{controller}/verify"
    flags = ("-verify-client-url", url, "-verify-client-url-fail-open=false")
    with kind(tmp_path / "relay", flags=flags, env=proxy.environ) as relay:
        verdict = check("ping", relay.url)
        assert verdict.ok, verdict.error
    assert (("POST", url) in proxy.asked()) == (host == OUTSIDE)


@KINDS
def test_a_secrets_server_is_asked_through_the_proxy(kind: type[Relay], proxy: Proxy, tmp_path: Path) -> None:
    port = free_port()
    flags = ("-secrets-url", f"http://{OUTSIDE}:{port}", "-secrets-cache-dir", str(tmp_path / "cache"))
    with setec(tmp_path / "setec.log", port, NAME), kind(tmp_path / "relay", flags=flags, env=proxy.environ) as relay:
        relay.wait_for_log(r"mesh_key=true|DERP mesh key configured")
    assert ("POST", f"http://{OUTSIDE}:{port}/api/get") in proxy.asked()


def test_a_ca_is_asked_through_the_proxy(proxy: Proxy, tmp_path: Path) -> None:
    port = free_port()
    environ = [f"{name}={value}" for name, value in proxy.environ.items()]
    ca = ("-tls", "on", "-certmode", "letsencrypt", "-certdir", str(tmp_path), "-http-port", "-1")
    asked = ("-acme-directory", f"https://{OUTSIDE}:{port}/directory")
    with Server(tmp_path, *ca, *asked, hostname="derp.example.com", before=("env", *environ)):
        proxy.wait_for("CONNECT", f"{OUTSIDE}:{port}")


def test_a_prober_fetches_its_map_through_the_proxy(proxy: Proxy) -> None:
    url = f"http://{OUTSIDE}:{free_port()}/map"
    done = derpprobe("-once", "-derp-map", url, env=proxy.environ)
    assert done.returncode == 1  # no relay listens there
    assert ("GET", url) in proxy.asked()


@KINDS
def test_a_controller_is_asked_through_a_socks_proxy(
    kind: type[Relay], socks: Socks, controller: int, tmp_path: Path
) -> None:
    flags = ("-verify-client-url", f"http://{OUTSIDE}:{controller}/verify", "-verify-client-url-fail-open=false")
    with kind(tmp_path / "relay", flags=flags, env=socks.environ) as relay:
        verdict = check("ping", relay.url)
        assert verdict.ok, verdict.error
    socks.wait_for(f"{OUTSIDE}:{controller}")


def test_a_secrets_server_is_asked_through_a_socks_proxy(socks: Socks, tmp_path: Path) -> None:
    port = free_port()
    flags = ("-secrets-url", f"http://{OUTSIDE}:{port}", "-secrets-cache-dir", str(tmp_path / "cache"))
    with (
        setec(tmp_path / "setec.log", port, NAME),
        OurDerper(tmp_path / "relay", flags=flags, env=socks.environ) as relay,
    ):
        relay.wait_for_log(r"mesh_key=true")
    socks.wait_for(f"{OUTSIDE}:{port}")


def test_a_ca_is_asked_through_a_socks_proxy(socks: Socks, tmp_path: Path) -> None:
    environ = [f"{name}={value}" for name, value in socks.environ.items()]
    ca = ("-tls", "on", "-certmode", "letsencrypt", "-certdir", str(tmp_path), "-http-port", "-1")
    with ThreadingHTTPServer((OUTSIDE, 0), Allows) as directory:
        asked = ("-acme-directory", f"https://{OUTSIDE}:{directory.server_port}/directory")
        with Server(tmp_path, *ca, *asked, hostname="derp.example.com", before=("env", *environ)):
            socks.wait_for(f"{OUTSIDE}:{directory.server_port}")


def test_a_prober_fetches_its_map_through_a_socks_proxy(socks: Socks) -> None:
    with ThreadingHTTPServer((OUTSIDE, 0), Allows) as server:
        url = f"http://{OUTSIDE}:{server.server_port}/map"
        done = derpprobe("-once", "-derp-map", url, env=socks.environ)
        assert done.returncode == 1  # nothing answers there
        socks.wait_for(f"{OUTSIDE}:{server.server_port}")


@KINDS
@pytest.mark.parametrize("proxy", ["ftp://proxy.test", "http://a.test:x"])
def test_an_unusable_proxy_does_not_prevent_the_start(kind: type[Relay], proxy: str, tmp_path: Path) -> None:
    with kind(tmp_path / "relay", env={"HTTPS_PROXY": proxy}) as relay:
        verdict = check("ping", relay.url)
        assert verdict.ok, verdict.error
