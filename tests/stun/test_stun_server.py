"""STUN as clients see it: the server as a process, over the loopback interface."""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import struct
import threading
import zlib
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from asking import (
    COOKIE,
    FINGERPRINT,
    SOFTWARE,
    Address,
    Server,
    attribute,
    client,
    fingerprint,
    header,
    mapped_address,
    request,
    server,
)
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator

VECTORS: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parents[1] / "vectors/stun.json").read_text())
MAX_REQUEST = 1500


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("strict")) as running:
        yield running


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("lenient"), "", "-stun-any") as running:
        yield running


@pytest.mark.parametrize("case", VECTORS["datagrams"], ids=lambda case: case["name"])
@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_a_recorded_datagram_is_answered_or_ignored_as_recorded(strict: Server, ip: str, case: dict[str, Any]) -> None:
    with client(ip, strict.stun_port) as asking:
        answers = asking.answers_to(bytes.fromhex(case["datagram"]))
        if case["answered"]:
            assert [mapped_address(answer, bytes.fromhex(case["tx_id"])) for answer in answers] == [asking.address]
        else:
            assert answers == []


@pytest.mark.parametrize("case", VECTORS["requests"], ids=lambda case: case["tx_id"])
def test_this_tests_requests_are_those_of_the_reference_client(case: dict[str, Any]) -> None:
    assert request(bytes.fromhex(case["tx_id"])).hex() == case["request"]


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("", "127.0.0.1"),
        ("", "::1"),
        ("[::]", "127.0.0.1"),
        # Addresses that no routing table would choose: the answer has to come from the requested address.
        ("0.0.0.0", "127.0.0.2"),
        ("0.0.0.0", "::1"),  # as elsewhere, this address means both families
        ("", "127.0.0.3"),
    ],
)
def test_a_client_gets_its_address_from_the_address_that_it_requested(tmp_path: Path, host: str, asked: str) -> None:
    with server(tmp_path, host) as running, client(asked, running.stun_port) as asking:
        assert asking.ask() == asking.address


def test_it_answers_only_on_the_address_of_the_main_listener(tmp_path: Path) -> None:
    with server(tmp_path, "127.0.0.2") as running:
        with client("127.0.0.2", running.stun_port) as asking:
            assert asking.ask() == asking.address
        with socket.socket(type=socket.SOCK_DGRAM) as elsewhere:
            elsewhere.settimeout(10)
            elsewhere.connect(("127.0.0.3", running.stun_port))
            elsewhere.send(request(bytes(12)))
            with pytest.raises(ConnectionRefusedError):
                elsewhere.recv(100)


def test_every_request_of_a_burst_gets_its_own_answer(strict: Server) -> None:
    with client("127.0.0.1", strict.stun_port) as asking:
        wanted = {secrets.token_bytes(12) for _ in range(200)}
        for tx_id in wanted:
            asking.send(request(tx_id))
        answers = [asking.receive() for _ in wanted]
        assert {answer[8:20] for answer in answers} == wanted
        assert {mapped_address(answer, answer[8:20]) for answer in answers} == {asking.address}


ATTRIBUTES = st.lists(
    st.tuples(
        st.sampled_from([SOFTWARE, FINGERPRINT, 0x8028, 0x8099, 0x0003, 0x0020, 0x7FFF, 0x8000])
        | st.integers(0, 0xFFFF),
        st.just(b"tailnode") | st.binary(max_size=12) | st.binary(min_size=4, max_size=4),
    ),
    max_size=5,
)


@st.composite
def nearly_requests(draw: st.DrawFn) -> bytes:
    """Draw a request, or a datagram with one or two differences from one."""
    body = b"".join(attribute(kind, value) for kind, value in draw(ATTRIBUTES))
    body += draw(st.sampled_from([b"", attribute(SOFTWARE, b"tailnode")]))
    ends_in_fingerprint = draw(st.booleans())
    length = draw(st.just(len(body) + 8 * ends_in_fingerprint) | st.integers(0, 0xFFFF))
    datagram = header(length, draw(st.binary(min_size=12, max_size=12))) + body
    if ends_in_fingerprint:
        datagram += fingerprint(datagram)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(datagram) - 1))
        datagram = datagram[:at] + bytes([draw(st.integers(0, 255))]) + datagram[at + 1 :]
    return datagram + draw(st.sampled_from([b"", b"\0", b"\0\0\0\0"]))


DATAGRAMS = nearly_requests() | st.binary(max_size=100) | st.binary(min_size=MAX_REQUEST - 4, max_size=MAX_REQUEST + 4)


def attributes_of(datagram: bytes) -> list[tuple[int, bytes]] | None:
    found, rest = [], datagram[20:]
    while rest:
        if len(rest) < 4:
            return None
        kind, length = struct.unpack(">HH", rest[:4])
        padded = 4 + length + -length % 4
        if len(rest) < padded:
            return None
        found.append((kind, rest[4 : 4 + length]))
        rest = rest[padded:]
    return found


def is_answered(datagram: bytes, *, by_any: bool) -> bool:
    """Return whether the rules of the wire page demand an answer."""
    attributes = attributes_of(datagram)
    if len(datagram) < 20 or datagram[:2] != b"\0\1" or datagram[4:8] != COOKIE or attributes is None:
        return False
    last_kind, last = attributes[-1] if attributes else (None, b"")
    is_right = last == struct.pack(">I", zlib.crc32(datagram[:-8]) ^ 0x5354554E)
    if (SOFTWARE, b"tailnode") in attributes and last_kind == FINGERPRINT and is_right:
        return True
    is_standard = (
        int.from_bytes(datagram[2:4], "big") == len(datagram) - 20
        and all(kind >= 0x8000 for kind, _ in attributes)
        and (last_kind != FINGERPRINT or is_right)
    )
    return by_any and is_standard


@given(DATAGRAMS)
def test_the_server_answers_exactly_valid_requests_and_stays_up(strict: Server, datagram: bytes) -> None:
    with client("127.0.0.1", strict.stun_port) as asking:
        answers = asking.answers_to(datagram)
        assert [mapped_address(answer, datagram[8:20]) for answer in answers] == [asking.address] * is_answered(
            datagram, by_any=False
        )


@given(DATAGRAMS)
def test_an_open_server_answers_every_standard_request_and_stays_up(lenient: Server, datagram: bytes) -> None:
    with client("::1", lenient.stun_port) as asking:
        answers = asking.answers_to(datagram)
        assert [mapped_address(answer, datagram[8:20]) for answer in answers] == [asking.address] * is_answered(
            datagram, by_any=True
        )


def test_a_standard_client_is_answered_only_if_the_operator_opened_stun(strict: Server, lenient: Server) -> None:
    bare = header(0, bytes(12))
    with client("127.0.0.1", strict.stun_port) as asking:
        assert asking.answers_to(bare) == []
    with client("127.0.0.1", lenient.stun_port) as asking:
        assert [mapped_address(answer, bytes(12)) for answer in asking.answers_to(bare)] == [asking.address]


@contextmanager
def flood(port: int, datagram: bytes) -> Iterator[None]:
    """Run two senders at full speed until the block ends."""
    over = threading.Event()

    def send() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            while not over.is_set():
                for _ in range(100):
                    sock.sendto(datagram, ("127.0.0.1", port))

    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    try:
        yield
    finally:
        over.set()
        for sender in senders:
            sender.join()


def ask_until_answered(port: int) -> Address:
    """Retry as real clients do: the kernel may drop a queued request, and an answer may be late."""
    asked = set()
    with client("127.0.0.1", port) as asking:
        for _ in range(100):
            tx_id = secrets.token_bytes(12)
            asked.add(tx_id)
            asking.send(request(tx_id))
            with suppress(TimeoutError):
                answer = asking.receive(0.1)
                assert answer[8:20] in asked
                assert mapped_address(answer, answer[8:20]) == asking.address
                return asking.address
    raise AssertionError("no answer in a hundred tries")


def probe_status(port: int) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/derp/probe")
        return connection.getresponse().status


@pytest.mark.parametrize(
    "datagram", [secrets.token_bytes(1200), request(bytes(12))[:-1], request(bytes(12))], ids=["noise", "near", "good"]
)
def test_a_flood_stops_neither_valid_clients_nor_the_pages(strict: Server, datagram: bytes) -> None:
    with flood(strict.stun_port, datagram):
        for _ in range(5):
            ask_until_answered(strict.stun_port)
            assert probe_status(strict.main_port) == http.HTTPStatus.OK
    ask_until_answered(strict.stun_port)


@pytest.mark.parametrize(("host", "taken"), [("127.0.0.1", "127.0.0.1"), ("", "0.0.0.0")])
def test_a_port_in_use_is_logged_with_a_remedy_and_the_relay_runs_without_stun(
    tmp_path: Path, host: str, taken: str
) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind((taken, 0))
        port = other.getsockname()[1]
        with server(tmp_path, host, "-stun-port", str(port)) as running:
            assert f"cannot answer STUN on {host}:{port}: another program uses that port" in running.log
            assert "-stun-port; -stun=false" in running.log
            assert running.stun_port == 0
            assert probe_status(running.main_port) == http.HTTPStatus.OK


def test_without_stun_its_port_is_free(tmp_path: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        flags = ("-stun=false", "-stun-port", str(other.getsockname()[1]))
        with server(tmp_path, "127.0.0.1", *flags) as running:
            assert running.stun_port == 0
            assert "answering STUN" not in running.log
        assert "cannot serve STUN" not in running.log
