"""A CA that sends wrong answers: a small HTTPS server whose answers a test sets; a real CA cannot send them.

It has the part of ACME that leads to the wrong answer: directory, nonces, account, order, challenges that it never
checks, and a certificate. `answers` replaces single answers, by path.
"""

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from authority import Authority
from made import make
from relays import HOST

from derper.credentials.pem import Host

Answer = tuple[int, Mapping[str, str], bytes]


def json_answer(status: int, value: object, **headers: str) -> Answer:
    kind = "application/json" if status < 400 else "application/problem+json"
    return status, {"Content-Type": kind, **headers}, json.dumps(value).encode()


def certificate_for(host: Host, days: int = 90) -> Answer:
    _, chain = make(host, datetime.now(UTC) - timedelta(days=1), timedelta(days=days))
    return 200, {"Content-Type": "application/pem-certificate-chain"}, chain


class LyingCa:
    """Issues for one name."""

    def __init__(self, folder: Path, name: str) -> None:
        authority = Authority(folder)
        authority.issue(folder, HOST)
        self.roots = authority.file
        self.asked: list[str] = []  # paths
        self._http = ThreadingHTTPServer((HOST, 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / f"{HOST}.crt", folder / f"{HOST}.key")
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        base = self.base = f"https://{HOST}:{self._http.server_port}"
        challenge = {"type": "http-01", "url": f"{base}/challenge", "token": "t" * 43, "status": "pending"}
        authorization = {"identifier": {"type": "dns", "value": name}, "challenges": [challenge]}
        order = {
            "status": "ready",
            "identifiers": [authorization["identifier"]],
            "authorizations": [f"{base}/authorization"],
            "finalize": f"{base}/finalize",
            "certificate": f"{base}/certificate",
        }
        self.order = order
        self.honest: dict[str, Answer] = {
            "/directory": json_answer(
                200, {f"new{what}": f"{base}/new{what}" for what in ("Nonce", "Account", "Order")}
            ),
            "/newNonce": (200, {}, b""),
            "/newAccount": json_answer(201, {"status": "valid"}, Location=f"{base}/account"),
            "/newOrder": json_answer(201, order, Location=f"{base}/order"),
            "/authorization": json_answer(200, authorization | {"status": "valid"}),
            "/finalize": json_answer(200, order | {"status": "valid"}),
            "/order": json_answer(200, order | {"status": "valid"}),
            "/certificate": certificate_for(name),
        }
        self.answers: dict[str, Answer | Callable[[Any], None]] = {}

    @property
    def flags(self) -> tuple[str, ...]:
        return ("-acme-directory", f"{self.base}/directory", "-acme-directory-ca", str(self.roots))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        ca = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # send an answer at once, or the other end waits for the rest

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                ca.asked.append(self.path)
                answer = ca.answers.get(self.path) or ca.honest.get(self.path, (404, {}, b""))
                if callable(answer):
                    answer(self)
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in {"Replay-Nonce": "bm9uY2U", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_POST = answer  # noqa: N815  as the base class calls them

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        return Handler


def endless(handler: Any) -> None:  # noqa: ANN401  a handler of the standard library
    """Answer without an end."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 40))
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 65_536)
    except OSError:
        handler.close_connection = True


def trickling(handler: Any) -> None:  # noqa: ANN401
    """Answer a byte at a time."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.01)
    except OSError:
        handler.close_connection = True
