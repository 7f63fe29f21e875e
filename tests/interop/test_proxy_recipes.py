"""The recipes of docs/behind-a-proxy.md, as they stand there, with the real programs."""

import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from authority import Authority
from derpwire import HOST, SECONDS, Client, Wire
from relays import free_port
from serving import Server

PAGE = Path(__file__).parents[2] / "docs/behind-a-proxy.md"
NAME = "derp.example.com"
CLIENT = "127.0.0.4"
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # where it is one of its own, as in Debian


def recipe(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@contextmanager
def running(*command: str, port: int) -> Iterator[None]:
    """A proxy, from the moment on that its port is open."""
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + SECONDS
        while True:
            assert process.poll() is None, "the proxy has ended"
            assert time.monotonic() < deadline, "the proxy does not listen"
            try:
                # Whoever looks only whether somebody is there ends before TLS: a line in the log, no more.
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
    """The relay of the page, on a port of the kernel's choice."""
    Authority(folder).issue(folder, NAME)
    with Server(folder, "-proxy-protocol", HOST, tls=True, hostname=NAME) as server:
        yield server


def come(port: int, name: str = NAME) -> Wire:
    sock = socket.create_connection((HOST, port), SECONDS, source_address=(CLIENT, 0))
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return Wire(context.wrap_socket(sock, server_hostname=name))


def is_known_by_its_address(server: Server, port: int) -> None:
    with Client(come(port)) as client:
        client.upgrade()
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
    """An nginx that serves by a recipe, and by what every machine has to say for itself."""
    load = f"load_module {STREAM_MODULE};\n" if STREAM_MODULE.exists() else ""
    user = "user root;\n" if os.getuid() == 0 else ""
    here = f"daemon off;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
    (folder / "nginx.conf").write_text(load + user + here + recipe)
    with running("nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), port=port):
        yield


def test_behind_nginx_that_ends_tls(tmp_path: Path) -> None:
    port = free_port()
    Authority(tmp_path).issue(tmp_path, NAME)
    with Server(tmp_path / "relay", "-tls", "off", "-trusted-proxies", HOST, hostname=NAME) as server:
        text = recipe("nginx").replace("listen 443", f"listen {HOST}:{port}")
        text = text.replace("127.0.0.1:8080", f"{HOST}:{server.port}").replace("/etc/ssl", str(tmp_path))
        with nginx(tmp_path, f"http {{\naccess_log off;\n{text}}}\n", port):
            is_known_by_its_address(server, port)


def first_message(name: str) -> bytes:
    """What a TLS client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError
