"""Every setting with a secret is set; then the server's pages, log and errors are searched for the secrets."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Final

import pytest
import structlog
from derpwire import Client
from httpwire import read_answer, request
from serving import Server

from derper import log
from derper.config import LogFormat, Logs
from derper.protocol.keys import MeshKey, NodePrivate
from derper.protocol.login import ClientInfo
from derper.redaction import conceal, redacted

PRIVATE: Final = NodePrivate(bytes(range(64, 96)))
MESH: Final = MeshKey.from_text("5ec2e7" * 10 + "abcd")
EAB: Final = "ZWFiLXNlY3JldC1vZi1hLXRlc3Q"
TOKEN: Final = "admin-token-of-a-test"  # noqa: S105  a test's own
DEBUG_KEY: Final = "debug-key-of-a-test"
USER: Final = "user-of-a-url"
PASSWORD: Final = "password-of-a-url"  # noqa: S105  a test's own
QUERY: Final = "query-of-a-url"
SECRETS: Final = (PRIVATE.to_text()[8:], MESH.to_text(), EAB, TOKEN, DEBUG_KEY, USER, PASSWORD, QUERY)


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "token").write_text(TOKEN)
    (folder / "debugkey").write_text(DEBUG_KEY)
    with socket.socket() as closed_port:  # a port without a listener
        closed_port.bind(("127.0.0.1", 0))
        url = f"http://{USER}:{PASSWORD}@127.0.0.1:{closed_port.getsockname()[1]}/verify?token={QUERY}"
        flags = ("-admin", f"unix:{folder}/admin.sock", "-admin-token-file", f"{folder}/token", "-acme-eab-key", EAB,
                 "-verify-client-url", url, "-http-port", "0")  # fmt: skip
        before = ("env", f"TS_DEBUG_KEY_PATH={folder}/debugkey")
        with Server(folder, *flags, tls=True, private=PRIVATE, mesh_key=MESH, before=before) as server:
            yield server


def searched(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret.lower() in text.lower()]


def test_no_page_shows_a_secret(server: Server) -> None:
    connection = UnixConnection(server.folder / "admin.sock")
    pages = {}
    for path in ("/debug/", "/debug/vars", "/debug/varz", "/debug/check", "/debug/nothing", "/"):
        connection.request("GET", path)
        pages[path] = connection.getresponse().read().decode()
    connection.close()
    shown = "".join(pages.values())
    words = json.loads(pages["/debug/vars"])
    assert "set (from -acme-eab-key)" in words["cmdline"]
    assert any(re.search(r"http://\(secret\)@127\.0\.0\.1:\d+/verify\?\(secret\)", word) for word in words["cmdline"])
    for path in ("/", "/debug/", f"/debug/check?debugkey={DEBUG_KEY}", "/bootstrap-dns", "/derp"):
        with server.door.connect() as wire:
            wire.send(request("GET", path))
            shown += read_answer(wire).body.decode()
    assert searched(shown) == []


def test_no_failure_writes_a_secret_to_the_log(server: Server) -> None:
    for info in (ClientInfo(), ClientInfo(mesh_key=MESH)):  # the first is checked at the URL, where no server answers
        client = Client(server.door.connect())
        with client:
            client.upgrade()
            client.log_in(info)
    for line in (f"GET /debug/?debugkey={DEBUG_KEY} HTTP/9.9", f"Authorization: Bearer {TOKEN}", f"GET {EAB} HTTP/1.1"):
        with server.door.connect() as wire:
            wire.send(f"{line}\r\nX-Key: {MESH.to_text()}\r\n\r\n".encode())
            wire.rest()
    connection = UnixConnection(server.folder / "admin.sock")
    (server.folder / "mesh.key").write_text(f"{MESH.to_text()}ff")
    connection.request("POST", "/reload", headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    told = answer.read().decode()
    connection.close()
    (server.folder / "mesh.key").write_text(MESH.to_text())
    assert answer.status == 500
    assert "64 hex digits" in told
    server.logged("reload failed")
    assert searched(server.log() + told) == []
    assert "client gone" in server.log()


@pytest.mark.parametrize(
    "flags",
    [
        ["-c", "{folder}/bad.key"],
        ["-mesh-psk-file", "{folder}/bad.mesh"],
        ["-verify-client-url", f"ftp://{USER}:{PASSWORD}@a.test/?{QUERY}"],
        ["-home", f"ftp://{USER}:{PASSWORD}@a.test/?{QUERY}"],
        ["-secrets-url", f"nohttp://{USER}:{PASSWORD}@a.test/?{QUERY}"],
        ["-acme-eab-key", EAB, "-certmode=gcp", "-a=127.0.0.1:443"],
        ["-admin-token-file", "{folder}/short", "-admin=127.0.0.1:0"],
    ],
    ids=lambda flags: flags[0],
)
def test_no_start_up_error_has_a_secret_in_it(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.key").write_text(f'{{"PrivateKey": "{PRIVATE.to_text()}00"}}')
    (tmp_path / "bad.mesh").write_text(f"{MESH.to_text()}00")
    (tmp_path / "short").write_text(TOKEN[:10])
    words = ["-a=127.0.0.1:0", "-stun=false", "-hostname=a", "-c", str(tmp_path / "key")]
    command = [sys.executable, "-m", "derper", *words, *(flag.format(folder=tmp_path) for flag in flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))
    assert done.returncode == 1
    assert "the server cannot run" in done.stderr
    assert searched(done.stdout + done.stderr) == []
    assert TOKEN[:10] not in done.stderr


def fail_with(secret: str) -> None:
    variable = secret[::-1]
    raise RuntimeError(f"a library quotes {secret} and has {len(variable)} letters of it in a variable")


@pytest.mark.parametrize("form", [LogFormat.TEXT, LogFormat.LOGFMT, LogFormat.JSON])
def test_a_traceback_shows_neither_a_known_secret_nor_the_values_of_variables(form: LogFormat) -> None:
    secret = TOKEN.replace("admin", "other")
    conceal(secret, "/a/file")
    before, out = structlog.get_config(), StringIO()
    log.configure(out, Logs(form))
    try:
        fail_with(secret)
    except RuntimeError:
        structlog.get_logger().exception("this is a bug", detail=secret)
    finally:
        structlog.configure(**before)
    assert log.flush(20.0)
    assert secret not in out.getvalue()
    assert secret[::-1] not in out.getvalue()
    assert out.getvalue().count("set (from /a/file)") == 2
    assert "RuntimeError" in out.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pw@a.test/x", "https://(secret)@a.test/x"),
        ("see https://a.test/x?y=z, please", "see https://a.test/x?(secret) please"),
        ("what? me@a.test", "what? me@a.test"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("privkey:00ff privkey:", "privkey:(secret) privkey:"),
    ],
)
def test_only_the_secrets_are_removed_from_a_text(text: str, shown: str) -> None:
    assert redacted(text) == shown
