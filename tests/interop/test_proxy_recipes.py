"""The recipes of docs/behind-a-proxy.md, unchanged, with the real programs."""

import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from authority import Authority
from derpwire import HOST, SECONDS, Client, Wire
from realclient import check
from relays import free_port
from serving import Server

PAGE = Path(__file__).parents[2] / "docs/behind-a-proxy.md"
NAME = "derp.example.com"
LOCAL = "localhost"  # for clients that resolve the relay's name
CLIENT = "127.0.0.4"
Fronted = tuple[Server, int, Path]
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # a separate module, as in Debian


def recipe(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@contextmanager
def running(*command: str, port: int, output: IO[bytes] | None = None) -> Iterator[None]:
    """Run a proxy; the block begins when its port is open. `output` receives both of its outputs."""
    process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            assert process.poll() is None, "the proxy has ended"
            assert time.monotonic() < deadline, "the proxy does not listen"
            try:
                # A check of the port ends before TLS, which only causes a log line.
                socket.create_connection((HOST, port), 1).close()
            except ConnectionRefusedError:
                continue
            break
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def relay(folder: Path) -> Iterator[Server]:
    """Run the relay of the page, on a port chosen by the kernel."""
    Authority(folder).issue(folder, NAME)
    with Server(folder, "-proxy-protocol", HOST, tls=True, hostname=NAME) as server:
        yield server


def come(port: int, name: str = NAME) -> Wire:
    sock = socket.create_connection((HOST, port), SECONDS, source_address=(CLIENT, 0))
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return Wire(context.wrap_socket(sock, server_hostname=name))


def is_known_by_its_address(server: Server, port: int, name: str = NAME) -> None:
    with Client(come(port, name)) as client:
        client.upgrade(name)
        client.log_in()
        assert client.fence() == []
    server.logged(rf'event="client gone" key={client.key} .*remote={re.escape(CLIENT)}')


def test_behind_haproxy(tmp_path: Path) -> None:
    with relay(tmp_path) as server:
        port = free_port()
        text = recipe("haproxy").replace("bind :443", f"bind {HOST}:{port}")
        (tmp_path / "haproxy.cfg").write_text(text.replace("127.0.0.1:8443", f"{HOST}:{server.port}"))
        with running("haproxy", "-db", "-q", "-f", str(tmp_path / "haproxy.cfg"), port=port):
            is_known_by_its_address(server, port)


def test_behind_nginx_that_shares_the_port_with_a_web_server(tmp_path: Path) -> None:
    with relay(tmp_path) as server, socket.create_server((HOST, 0)) as web:
        port = free_port()
        text = recipe("nginx-stream").replace("listen 443", f"listen {HOST}:{port}")
        text = text.replace("127.0.0.1:8443", f"{HOST}:{server.port}")
        text = text.replace("127.0.0.1:9443", f"{HOST}:{web.getsockname()[1]}")
        with nginx(tmp_path, text, port):
            web.settimeout(SECONDS)
            is_known_by_its_address(server, port)
            with socket.create_connection((HOST, port), SECONDS, source_address=(CLIENT, 0)) as visitor:
                visitor.sendall(first_message("www.example.com"))
                arrived, _ = web.accept()
                with arrived:
                    assert arrived.recv(1000).startswith(f"PROXY TCP4 {CLIENT} {HOST} ".encode())


@contextmanager
def nginx(folder: Path, recipe: str, port: int) -> Iterator[None]:
    """Run nginx with a recipe, and with the settings that depend on the machine."""
    load = f"load_module {STREAM_MODULE};\n" if STREAM_MODULE.exists() else ""
    user = "user root;\n" if os.getuid() == 0 else ""
    here = f"daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
    (folder / "nginx.conf").write_text(load + user + here + recipe)
    with running("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), port=port):
        yield


@contextmanager
def caddy(folder: Path, recipe: str, port: int) -> Iterator[None]:
    """Run Caddy with a recipe, with a certificate from a file, and without changes to the machine."""
    files = f"bind {HOST}\n    tls {folder}/{LOCAL}.crt {folder}/{LOCAL}.key\n"
    text, sites = re.subn(rf"^{re.escape(LOCAL)} {{\n", f"{LOCAL}:{port} {{\n    {files}", recipe, flags=re.MULTILINE)
    assert sites == 1
    ours = "{\n    admin off\n    auto_https disable_redirects\n    log {\n        level ERROR\n    }\n}\n"
    (folder / "Caddyfile").write_text(ours + text)
    command = ("env", f"HOME={folder}", "caddy", "run", "--adapter", "caddyfile", "--config", f"{folder}/Caddyfile")
    with running(*command, port=port):
        yield


@contextmanager
def nginx_for_http(folder: Path, recipe: str, port: int) -> Iterator[None]:
    text = recipe.replace("listen 443", f"listen {HOST}:{port}").replace("/etc/ssl", str(folder))
    with nginx(folder, f"http {{\naccess_log off;\n{text}}}\n", port):
        yield


@pytest.fixture(scope="module", params=[("nginx", nginx_for_http), ("caddy", caddy)], ids=["nginx", "caddy"])
def fronted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronted]:
    """A relay behind a proxy that terminates TLS, the proxy's port, and the roots of its clients."""
    folder, port = tmp_path_factory.mktemp("fronted"), free_port()
    language, proxy = request.param
    authority = Authority(folder)
    authority.issue(folder, LOCAL)
    with Server(folder / "relay", "-tls", "off", "-trusted-proxies", HOST, hostname=LOCAL) as server:
        text = recipe(language).replace("127.0.0.1:8080", f"{HOST}:{server.port}").replace(NAME, LOCAL)
        with proxy(folder, text, port):
            yield server, port, authority.file


def test_clients_behind_a_proxy_that_ends_tls_have_their_own_addresses(fronted: Fronted) -> None:
    server, port, _ = fronted
    is_known_by_its_address(server, port, LOCAL)


@pytest.mark.parametrize("how", [(), ("-websocket",)], ids=["derp", "websocket"])
def test_the_real_client_relays_through_a_proxy_that_ends_tls(how: tuple[str, ...], fronted: Fronted) -> None:
    _, port, authority = fronted
    verdict = check("relay", f"https://{LOCAL}:{port}", "-proxied", *how, env={"SSL_CERT_FILE": str(authority)})
    assert verdict.ok, verdict.error


def first_message(name: str) -> bytes:
    """Return a TLS client's first message."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError
