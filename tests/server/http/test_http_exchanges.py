"""The requests recorded with the reference get the same answers from our server, or better ones.

The recording is `exchanges` of `tests/vectors/http.json`. Compared are status line, headers as a set but for Date,
their order in a 101, the body if it has to match, and whether the connection stays open.
"""

from typing import Any, Final

import pytest
from derpwire import HOST, Client, Wire, WireError
from httpwire import Answer, read_answer, request
from serving import Recorded, Server, vectors

from derper.protocol.frames import FrameType
from derper.protocol.keys import NodePrivate
from derper.protocol.login import LoginBox, ServerInfo
from derper.protocol.reader import HEADER_LEN

pytest_plugins = ["hall"]

Case = dict[str, Any]

SERVER_KEY_FRAME: Final = 45  # bytes

FLAGS: Final[dict[str, tuple[str, ...]]] = {
    "plain": (),
    "dev": (),
    "derp-off": ("-derp=false",),
    "home-blank": ("-home", "blank"),
    "home-url": ("-home", "https://example.com/relay"),
    "prod-name": ("-hostname", "derp.tailscale.com"),
    "tls-ip": (),
}
"""The recorded servers of these tests. All have the recorded key; `dev` is like the others after its start."""

LEFT_OUT: Final = (
    ("dns-all-fail", "", "bootstrap DNS has tests of its own"),
    ("debug-access", "", "the debug pages have tests of their own"),
    ("tls-ace", "", "the CONNECT proxy has tests of its own"),
    ("tls-ip:80", "", "port 80 has tests of its own"),
    ("letsencrypt:80", "", "port 80 has tests of its own"),
    ("letsencrypt-prod-name:80", "", "port 80 has tests of its own"),
    ("", "GET /debug", "the debug pages have tests of their own"),
    ("", "GET /bootstrap-dns ", "bootstrap DNS has tests of its own"),
    ("", "GET /bootstrap-dns?", "bootstrap DNS has tests of its own"),
    ("", "HEAD /bootstrap-dns ", "bootstrap DNS has tests of its own"),
    ("", "POST /bootstrap-dns ", "bootstrap DNS has tests of its own"),
)
"""Exchanges that are not replayed: server, beginning of the request, and the reason."""

BROWSER_HEADERS: Final = (
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
)
WEBSOCKET: Final = "WebSocket has tests of its own"

WORDS: Final = {"phrase", "body", "header Content-Length"}
GO_WORDS: Final = "the words are those of Go's libraries"
HEADLESS: Final = "our plain answers say their type, and that the connection closes"

DIFFERENT: Final[dict[str, tuple[set[str], str]]] = {
    "websocket without a key": (WORDS, GO_WORDS),
    "websocket, key of the wrong length": (WORDS, GO_WORDS),
    "websocket, version 8": (WORDS, GO_WORDS),
    "websocket without Connection: Upgrade": (WORDS, GO_WORDS),
    "websocket with POST": (WORDS, GO_WORDS),
    "home page, HEAD": (WORDS, "the page is ours, and so is its length"),
    "no Host header": (WORDS, GO_WORDS),
    "HTTP/2 preface": ({*WORDS, "header Content-Type"}, HEADLESS),
    "plain HTTP spoken to the TLS port": ({*WORDS, "header Content-Type", "header Connection"}, HEADLESS),
}
"""Allowed differences from the recording with reasons: by name, or by name and request if several share a name."""


def label(case: Case) -> str:
    first_line = case["request"].split("\r\n")[0].rpartition(" ")[0] if "request" in case else "bytes"
    return f"{case['name']} | {first_line}"


def why_left_out(case: Case) -> str:
    text: str = case.get("request", "")
    for server, beginning, why in LEFT_OUT:
        if server in ("", case["server"]) and text.startswith(beginning):
            return why
    if case["name"].startswith("websocket") and " 101 " in (case["status_line"] or ""):
        return WEBSOCKET
    return ""


CASES: Final = [case for case in vectors("http")["exchanges"] if not why_left_out(case)]


@pytest.fixture
def server(case: Case, recorded: Recorded) -> Server:
    """Return the case's server, with the recorded key: plain, or with TLS and a certificate for an IP address."""
    name = case["server"]
    return recorded("plain" if name == "dev" else name.removesuffix("-ip"), *FLAGS[name], tls=name == "tls-ip")


def connect(server: Server, case: Case) -> Wire:
    if case.get("without_tls"):
        return server.raw_door.connect()
    door = server.door
    if door.tls is not None and "alpn_offered" in case:
        context = server.new_context()
        context.set_alpn_protocols(case["alpn_offered"])
        wire = Wire(context.wrap_socket(door.tcp(), server_hostname=HOST))
        assert wire.alpn == case["alpn_chosen"]
        return wire
    return door.connect()


def stays_open(wire: Wire) -> bool:
    """Return whether the server answers another request."""
    try:
        wire.send(request("GET", "/generate_204"))
        return read_answer(wire).status == 204
    except (WireError, OSError):
        return False


def log_in(wire: Wire) -> None:
    """Log in on a wire whose upgrade was answered."""
    client = Client(wire, NodePrivate(bytes.fromhex(vectors("login")["client_info"]["client_private"])))
    with client:
        client.greeted()
        client.log_in()
        assert client.fence() == []


def differing_headers(case: Case, answer: Answer) -> set[str]:
    ours, theirs = dict(answer.headers), dict(case["headers"])
    assert len(ours) == len(answer.headers), f"a header came twice: {answer}"
    if "page" in case:  # the page has our text, so the length differs
        del ours["Content-Length"], theirs["Content-Length"]
    named = ours.keys() | theirs.keys() - {"Date"}
    return {name for name in named if ours.get(name) != theirs.get(name) and name not in case.get("varies", [])}


def differences(case: Case, wire: Wire) -> set[str]:
    """Return short descriptions of the differences from the recording."""
    answer = read_answer(wire, case["request"].split(" ")[0] if "request" in case else "GET")
    found = set()
    version, status, phrase = case["status_line"].split(" ", 2)
    if answer.status_line.split(" ")[:2] != [version, status]:
        found.add("status")
    elif answer.status_line.split(" ", 2)[2] != phrase:
        found.add("phrase")
    found |= {f"header {name}" for name in differing_headers(case, answer)}
    if "header_order" in case:
        if [name for name, _ in answer.headers] != case["header_order"]:
            found.add("header_order")
        wire.unread(answer.body)
        log_in(wire)
        return found
    if "body" in case and answer.body.decode() != case["body"]:
        found.add("body")
    if "second_answer" in case:
        second = read_answer(wire)
        assert second.status_line == case["second_answer"]["status_line"]
    if stays_open(wire) != (case["connection_after"] == "open"):
        found.add(f"the connection is not {case['connection_after']}")
    return found


def data_of(case: Case) -> bytes:
    return case["request"].encode() if "request" in case else bytes.fromhex(case["request_hex"])


@pytest.mark.parametrize("case", [case for case in CASES if case["status_line"]], ids=label)
def test_a_recorded_request_gets_the_recorded_answer(server: Server, case: Case) -> None:
    may_differ, _ = DIFFERENT.get(case["name"]) or DIFFERENT.get(label(case)) or (set(), "")
    with connect(server, case) as wire:
        wire.send(data_of(case))
        assert differences(case, wire) - may_differ == set()


@pytest.mark.parametrize("case", [case for case in CASES if not case["status_line"]], ids=label)
def test_fast_start_has_no_http_answer(server: Server, case: Case) -> None:
    with connect(server, case) as wire:
        wire.send(data_of(case))
        greeting = bytes.fromhex(case["answer_hex"])[:SERVER_KEY_FRAME]
        assert wire.exactly(SERVER_KEY_FRAME) == greeting
        if len(case["answer_hex"]) // 2 > SERVER_KEY_FRAME:
            # The client's login came in the same segment as its request.
            keys = vectors("login")["client_info"]
            client = NodePrivate(bytes.fromhex(keys["client_private"]))
            server_key = NodePrivate(bytes.fromhex(keys["server_private"])).public()
            header = wire.exactly(HEADER_LEN)
            assert header[0] == FrameType.SERVER_INFO
            sealed = wire.exactly(int.from_bytes(header[1:]))
            assert ServerInfo.from_json(LoginBox(client, server_key).open(sealed)) == ServerInfo()
        else:
            wire.unread(greeting)
            log_in(wire)


def test_every_listed_exception_is_in_the_recording() -> None:
    names = {case["name"] for case in CASES} | {label(case) for case in CASES}
    assert set(DIFFERENT) <= names
