from __future__ import annotations

import pytest
from golden import Case, by_name, load, node
from hypothesis import example, given
from hypothesis import strategies as st

from derper.errors import ProtocolError
from derper.protocol.keys import NodePublic
from derper.protocol.login import ServerKey
from derper.protocol.upgrade import (
    MAX_HEAD,
    DerpUpgrade,
    Refusal,
    RequestHead,
    UpgradeAnswer,
    WebSocketUpgrade,
    decide,
    head_length,
    upgrade_request,
)

HTTP = load("http")
SERVER_KEY = node(load("login")["sessions"][0]["server_public"])
# Only the server knows whether a port has a relay.
NO_RELAY_THERE = {"derp-off", "tls-ip:80"}
# Headers that other HTTP servers add by themselves.
ADDED_BY_THE_CALLER = {"Date", "Content-Length"}


def sent(exchange: Case) -> bytes:
    return bytes.fromhex(exchange["request_hex"]) if "request_hex" in exchange else exchange["request"].encode()


def head_of(exchange: Case) -> bytes:
    data = sent(exchange)
    length = head_length(data)
    assert length is not None
    return data[:length]


def is_malformed(exchange: Case) -> bool:
    return exchange["name"] in {"no Host header", "HTTP/2 preface", "not HTTP"}


def is_for_the_relay(exchange: Case) -> bool:
    if is_malformed(exchange) or exchange["server"] in NO_RELAY_THERE:
        return False
    return RequestHead.parse(head_of(exchange)).path == "/derp"


RELAY = [exchange for exchange in HTTP["exchanges"] if is_for_the_relay(exchange)]


def answered(prefix: str) -> list[Case]:
    return [exchange for exchange in RELAY if (exchange["status_line"] or "").startswith(prefix)]


def test_the_recorded_exchanges_include_the_tested_kinds() -> None:
    assert (len(RELAY), len(answered("HTTP/1.1 101")), len(answered("HTTP/1.1 4"))) == (28, 16, 9)


@pytest.mark.parametrize("exchange", by_name(answered("HTTP/1.1 101")))
def test_an_upgrade_is_answered_with_the_reference_s_head(exchange: Case) -> None:
    decision = decide(RequestHead.parse(head_of(exchange)))
    headers = {name: value.replace("{server key}", SERVER_KEY.hex()) for name, value in exchange["headers"]}
    wanted = [f"{name}: {headers[name]}" for name in exchange["header_order"] if name not in ADDED_BY_THE_CALLER]
    head = "\r\n".join((exchange["status_line"], *wanted, "", ""))
    if isinstance(decision, DerpUpgrade):
        assert decision.answer(SERVER_KEY) == head.encode()
        after = exchange["after_headers_hex"].replace("{server key}", SERVER_KEY.hex())
        assert ServerKey(SERVER_KEY).encode().hex() == after
    else:
        assert isinstance(decision, WebSocketUpgrade)
        answer = decision.answer()
        assert answer.startswith(head.encode())
        after_head = answer.removeprefix(head.encode())
        # Either the first frame comes in a binary message, or a closing frame with the same status.
        assert decision.offers_derp is exchange["after_headers_hex"].startswith("82")
        if not decision.offers_derp:
            assert after_head[0] == 0x88
            assert after_head[1] == len(after_head) - 2
            assert after_head[2:4] == bytes.fromhex(exchange["after_headers_hex"])[2:4] == (1008).to_bytes(2)
        else:
            assert after_head == b""


@pytest.mark.parametrize("exchange", by_name(RELAY, without=lambda e: e["status_line"] is not None))
def test_fast_start_is_answered_with_only_the_first_frame(exchange: Case) -> None:
    decision = decide(RequestHead.parse(head_of(exchange)))
    assert decision == DerpUpgrade(fast_start=True, ideal_node=None)
    assert decision.answer(SERVER_KEY) == b""
    assert exchange["answer_hex"].startswith(ServerKey(SERVER_KEY).encode().hex())


@pytest.mark.parametrize("exchange", by_name(answered("HTTP/1.1 4")))
def test_a_rejection_has_the_reference_s_status_and_headers(exchange: Case) -> None:
    refusal = decide(RequestHead.parse(head_of(exchange)))
    assert isinstance(refusal, Refusal)
    assert exchange["status_line"].split()[1] == str(refusal.status)
    wanted = sorted((name, value) for name, value in exchange["headers"] if name not in ADDED_BY_THE_CALLER)
    assert sorted(refusal.headers) == wanted
    if "WebSocket" not in exchange["body"]:  # that text is from a Go library; ours differs
        assert exchange["body"] in (refusal.body, "")


def test_bytes_after_the_head_of_a_fast_start_are_derp() -> None:
    (exchange,) = (e for e in RELAY if "request_hex" in e)
    assert sent(exchange)[len(head_of(exchange)) :].startswith(bytes.fromhex("0200000069"))


def test_the_ideal_node_is_read_from_its_header() -> None:
    (exchange,) = (e for e in RELAY if e["name"] == "upgrade with Ideal-Node")
    assert decide(RequestHead.parse(head_of(exchange))) == DerpUpgrade(fast_start=False, ideal_node="900a")


@pytest.mark.parametrize("exchange", by_name(HTTP["exchanges"], without=is_malformed))
def test_every_recorded_request_head_is_read(exchange: Case) -> None:
    raw = head_of(exchange)
    head = RequestHead.parse(raw)
    first, *others = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    assert f"{head.method} {head.target} HTTP/{head.version}" == first
    lines = [line.partition(":") for line in others]
    assert list(head.headers) == [(name.lower(), value.strip(" ")) for name, _, value in lines]


@pytest.mark.parametrize("exchange", by_name(HTTP["exchanges"], without=lambda e: not is_malformed(e)))
def test_requests_that_the_reference_answers_with_400_are_protocol_errors(exchange: Case) -> None:
    with pytest.raises(ProtocolError):
        RequestHead.parse(head_of(exchange))


@pytest.mark.parametrize("exchange", by_name(RELAY))
def test_a_head_is_found_in_any_portions(exchange: Case) -> None:
    head = head_of(exchange)
    assert all(head_length(head[:length]) is None for length in range(len(head)))
    assert head_length(head) == len(head)
    assert head_length(head + b"GET / HTTP/1.1\r\n\r\n") == len(head)


def test_a_head_without_end_is_rejected_at_64_kib() -> None:
    endless = b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD
    assert head_length(endless[: MAX_HEAD - 1]) is None
    with pytest.raises(ProtocolError, match="65,536"):
        head_length(endless[:MAX_HEAD])


def test_a_head_has_to_be_passed_alone_and_complete() -> None:
    head = b"GET /derp HTTP/1.1\r\nHost: a\r\n\r\n"
    with pytest.raises(ProtocolError, match="got 3 bytes after it"):
        RequestHead.parse(head + b"abc")
    for length in range(len(head)):
        with pytest.raises(ProtocolError):
            RequestHead.parse(head[:length])


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: -1",
        "Content-Length: " + "9" * 5_000,
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Host: b",
        " folded: at the start\x00",
        "Name : value",
        "X: \x01",
    ],
)
def test_an_ambiguous_head_is_rejected(lines: str) -> None:
    with pytest.raises(ProtocolError):
        RequestHead.parse(f"GET /derp HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n".encode("latin-1"))


@pytest.mark.parametrize("host", ["a/b", "a b", "user@a", "a\\b", "a?b", "a#b", "<a>", 'a"', "a\r\n b", "\xe9"])
def test_a_host_that_a_redirect_cannot_contain_is_rejected(host: str) -> None:
    with pytest.raises(ProtocolError):
        RequestHead.parse(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"))


@pytest.mark.parametrize("path", ["/%", "/a%2", "/%zz", "/%%20", "/%2g?x"])
def test_a_path_with_an_invalid_escape_is_rejected(path: str) -> None:
    with pytest.raises(ProtocolError):
        RequestHead.parse(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert RequestHead.parse(b"GET /%20?%zz HTTP/1.1\r\nHost: a\r\n\r\n").path == "/%20"


@pytest.mark.parametrize("body", ["Content-Length: 5", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("upgrade", ["DERP", "websocket"])
def test_an_upgrade_with_a_body_is_rejected(body: str, upgrade: str) -> None:
    head = f"POST /derp HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n{body}\r\n\r\n"
    decision = decide(RequestHead.parse(head.encode()))
    assert isinstance(decision, Refusal)
    assert decision.status == 400


def websocket(*lines: str, version: str = "1.1") -> DerpUpgrade | WebSocketUpgrade | Refusal:
    head = (f"GET /derp HTTP/{version}", "Host: a", "Upgrade: websocket", "Sec-WebSocket-Protocol: derp", *lines)
    return decide(RequestHead.parse("\r\n".join((*head, "", "")).encode()))


GOOD_KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
VERSION_13 = "Sec-WebSocket-Version: 13"


def test_connection_may_be_a_list_in_any_case() -> None:
    assert isinstance(websocket("Connection: keep-alive, UPGRADE", VERSION_13, GOOD_KEY), WebSocketUpgrade)
    assert isinstance(websocket("Connection: close", "Connection: upgrade", VERSION_13, GOOD_KEY), WebSocketUpgrade)


@pytest.mark.parametrize(
    ("lines", "version", "status"),
    [
        pytest.param(("Connection: Upgrade", VERSION_13, GOOD_KEY), "1.0", 426, id="HTTP/1.0"),
        pytest.param(("Connection: Upgrade", VERSION_13, GOOD_KEY, GOOD_KEY), "1.1", 400, id="two keys"),
        pytest.param(("Connection: Upgrade", VERSION_13, "Sec-WebSocket-Key: é"), "1.1", 400, id="not base64"),
        pytest.param(("Connection: Upgrade", GOOD_KEY), "1.1", 400, id="no version"),
    ],
)
def test_an_invalid_websocket_handshake_is_rejected(lines: tuple[str, ...], version: str, status: int) -> None:
    decision = websocket(*lines, version=version)
    assert isinstance(decision, Refusal)
    assert decision.status == status


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/derp", "/derp"),
        ("/derp?x=/y", "/derp"),
        ("http://host/derp?x", "/derp"),
        ("https://host:1", "/"),
        ("*", "*"),
        ("host:443", "host:443"),
        ("/x?u=http://y/derp", "/x"),
    ],
)
def test_the_path_is_the_target_without_query_and_origin(target: str, path: str) -> None:
    assert RequestHead("GET", target, "1.1", ()).path == path


RECORDED_HEADS = [
    event["http"]
    for part in ("incoming", "dialled")
    for event in load("mesh_session")[part]["events"]
    if "http" in event
]


@pytest.mark.parametrize("fast_start", [False, True])
def test_our_request_has_the_fields_of_the_reference_client(*, fast_start: bool) -> None:
    theirs = next(
        RequestHead.parse(text.encode())
        for text in RECORDED_HEADS
        if text.startswith("GET /derp") and ("Derp-Fast-Start" in text) is fast_start
    )
    ours = RequestHead.parse(upgrade_request(theirs.get("Host"), fast_start=fast_start))
    assert (ours.method, ours.target, ours.version) == (theirs.method, theirs.target, theirs.version)
    assert sorted(ours.headers) == sorted(header for header in theirs.headers if header[0] != "user-agent")


@given(st.booleans(), st.none() | st.text("abcdefghij0123456789.-", min_size=1), st.sampled_from(["a", "[::1]:8443"]))
def test_a_server_parses_every_request_of_a_client(fast_start: bool, ideal_node: str | None, host: str) -> None:  # noqa: FBT001  hypothesis passes it by name
    head = RequestHead.parse(upgrade_request(host, fast_start=fast_start, ideal_node=ideal_node))
    assert (head.get("host"), head.path) == (host, "/derp")
    decision = decide(head)
    assert decision == DerpUpgrade(fast_start, ideal_node)
    if not fast_start:
        assert UpgradeAnswer.parse(decision.answer(SERVER_KEY)) == UpgradeAnswer(SERVER_KEY, 2)


@pytest.mark.parametrize(("host", "path"), [("a\r\nX: y", "/derp"), ("a", "/derp HTTP/1.1\r\nX: y"), ("a", "/a b")])
def test_a_host_or_path_cannot_inject_into_a_request(host: str, path: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        upgrade_request(host, path=path)


@pytest.mark.parametrize("text", [text for text in RECORDED_HEADS if text.startswith("HTTP/")])
def test_a_client_reads_the_reference_s_answer(text: str) -> None:
    answer = UpgradeAnswer.parse(text.encode())
    assert answer.protocol_version == 2
    assert answer.server_key is not None
    assert answer.server_key.hex() in text


def test_a_client_needs_only_the_status_of_the_answer() -> None:
    assert UpgradeAnswer.parse(b"HTTP/1.1 101 Yes\r\nDerp-Version: x\r\n\r\n") == UpgradeAnswer(None, None)


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n\x01",
        "HTTP/1.1 101 Switching Protocols\r\nDerp-Public-Key: 00\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "",
    ],
)
def test_a_client_rejects_any_other_answer(head: str) -> None:
    with pytest.raises(ProtocolError):
        UpgradeAnswer.parse(head.encode())


def test_an_error_has_the_status_and_no_head() -> None:
    with pytest.raises(ProtocolError, match="got 503"):
        UpgradeAnswer.parse(b"HTTP/1.1 503 No\r\n\r\n")
    with pytest.raises(ProtocolError) as caught:
        RequestHead.parse(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization hunter2\r\n\r\n")
    assert "hunter2" not in str(caught.value)


words = st.sampled_from(
    ["GET", "POST", "/derp", "HTTP/1.1", "HTTP/1.0", " ", "\r\n", "\n", ":", "Host: a", "Upgrade: DERP", "é", "\0", ","]
)


@given(st.lists(words, max_size=14).map("".join) | st.text(max_size=40))
@example("GET /derp HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n")
def test_any_head_is_a_request_or_a_protocol_error(text: str) -> None:
    for head in (text, text + "\r\n\r\n", f"GET /derp HTTP/1.1\r\nHost: a\r\n{text}\r\n\r\n", f"HTTP/1.1 101 {text}"):
        data = head.encode()
        for parse in (RequestHead.parse, UpgradeAnswer.parse):
            try:
                parsed = parse(data)
            except ProtocolError:
                continue
            if isinstance(parsed, RequestHead):
                assert head_length(data) == len(data)
                assert parsed.content_length >= 0
                decide(parsed)


def test_the_key_in_an_answer_is_the_untyped_one() -> None:
    answer = DerpUpgrade(fast_start=False, ideal_node=None).answer(NodePublic(bytes(range(32))))
    assert bytes(range(32)).hex().encode() in answer
    assert b"nodekey" not in answer
