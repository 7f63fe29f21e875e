"""Bad input and missing input close only that client's connection, with a reason in the log."""

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from bystanders import Bystanders
from derpwire import HOST, Client, Wire, closing, new_key
from serving import LOGIN_SECONDS, SETUP_SECONDS, TLS_KINDS, WRITE_SECONDS, Server

from derper.protocol.frames import MAX_PACKET, FrameType, Ping, Pong, RecvPacket, SendPacket
from derper.protocol.login import MAX_CLIENT_INFO, ClientInfo, LoginBox, client_info_frame
from derper.protocol.reader import frame_bytes
from derper.protocol.upgrade import upgrade_request

pytest_plugins = ["hall"]

MEGABYTE = 1 << 20
LOOSELY = 24 * MEGABYTE  # tolerance for the system, the allocator and the bystanders
EARLY = 0.2  # seconds for the login of several clients
LATE = 1.5  # tolerance after a deadline in seconds, for a busy machine
HEAD = upgrade_request(HOST)
CLIENT_HELLO_BEGINS = bytes.fromhex("1603010200010001fc0303")


@dataclass
class Scene:
    """A server with a well-behaved pair of clients, and its log from now on."""

    server: Server
    bystanders: Bystanders
    since: int

    def connect(self) -> Wire:
        return self.server.door.connect()

    def connect_without_tls(self) -> Wire:
        return self.server.raw_door.connect()

    def join(self) -> Client:
        return Client.join(self.server.door)

    def logs(self, event: str, reason: str, detail: str = "") -> None:
        """Wait for the line about the end of the offender's connection; the detail is a regular expression."""
        self.server.logged(rf'event="{event}" .*reason={reason}\b.*{detail}', self.since)


def scene_on(server: Server) -> Iterator[Scene]:
    with Bystanders(server.door) as bystanders:
        memory = server.memory()
        yield Scene(server, bystanders, server.mark())
        bystanders.relay_on()
        assert server.memory() - memory < LOOSELY


@pytest.fixture
def scene(relay: Server) -> Iterator[Scene]:
    yield from scene_on(relay)


@pytest.fixture
def slow_scene(either_relay: Server) -> Iterator[Scene]:
    yield from scene_on(either_relay)


def closed_after(wire: Wire, seconds: float, began: float) -> bytes:
    """Read to the end, which must come after the deadline and soon after it."""
    came = wire.rest()
    assert seconds <= time.monotonic() - began < seconds + LATE
    return came


def test_half_a_request_head_ends_at_the_deadline(slow_scene: Scene) -> None:
    began = time.monotonic()
    with slow_scene.connect() as wire:
        wire.send(b"GET /derp HTTP/1.1\r\nHost: exa")
        assert closed_after(wire, SETUP_SECONDS, began) == b""
    slow_scene.logs("connection closed", "setup_timeout", r"request head was not whole in time \(29 bytes\)")


def test_a_silent_connection_ends_at_the_deadline(slow_scene: Scene) -> None:
    began = time.monotonic()
    with slow_scene.connect() as wire:
        assert closed_after(wire, SETUP_SECONDS, began) == b""


def test_half_a_tls_handshake_ends_at_the_deadline(slow_scene: Scene) -> None:
    began = time.monotonic()
    with slow_scene.connect_without_tls() as wire:
        wire.send(CLIENT_HELLO_BEGINS)
        assert closed_after(wire, SETUP_SECONDS, began) == b""
    slow_scene.logs("connection closed", "setup_timeout")


def test_half_a_request_body_ends_at_the_deadline(slow_scene: Scene) -> None:
    began = time.monotonic()
    with slow_scene.connect() as wire:
        wire.send(b"POST /robots.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        assert closed_after(wire, SETUP_SECONDS, began).startswith(b"HTTP/1.1 200 OK\r\n")
    slow_scene.logs("connection closed", "setup_timeout", "the request body was not whole in time")


def test_a_request_head_that_comes_a_byte_at_a_time_ends_at_the_deadline(slow_scene: Scene) -> None:
    began = time.monotonic()
    with slow_scene.connect() as wire:
        head = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"a" * 10_000
        for at in range(len(head)):
            wire.offer(head[at : at + 1])
            if time.monotonic() - began > SETUP_SECONDS + LATE:
                break
            time.sleep(SETUP_SECONDS / 20)
        assert wire.rest() == b""
    slow_scene.logs("connection closed", "setup_timeout", "request head was not whole in time")


def test_an_incomplete_login_ends_at_its_deadline(slow_scene: Scene) -> None:
    clients = [Client(slow_scene.connect()) for _ in range(3)]
    with closing(*clients):
        for client, of_the_frame in zip(clients, (0, 3, 60), strict=True):
            client.upgrade()
            client.wire.send(client.client_info()[:of_the_frame])
        began = time.monotonic()
        for client in clients:
            assert closed_after(client.wire, LOGIN_SECONDS - EARLY, began) == b""
    slow_scene.logs("connection closed", "login_timeout", "no whole ClientInfo frame")


def test_a_head_of_a_megabyte_is_rejected_with_431(scene: Scene) -> None:
    with scene.connect() as wire:
        wire.offer(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + bytes(MEGABYTE).replace(b"\0", b"a"))
        assert wire.rest().startswith(b"HTTP/1.1 431 ")
    scene.logs("connection closed", "head_too_large")


def test_a_head_without_an_end_is_rejected_with_431(scene: Scene) -> None:
    with scene.connect() as wire:
        wire.offer(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000)
        assert wire.rest().startswith(b"HTTP/1.1 431 ")
    scene.logs("connection closed", "head_too_large")


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(bytes(range(128, 256)) * 8, id="no record at all"),
        pytest.param(CLIENT_HELLO_BEGINS + bytes(range(256)) * 4, id="a ClientHello of garbage"),
        pytest.param(bytes.fromhex("170303000568656c6c6f"), id="data before the handshake"),
        pytest.param(bytes.fromhex("160303ffff") + bytes(70_000), id="a record over its limit"),
        pytest.param(bytes.fromhex("15030300020228"), id="an alert"),
        pytest.param(bytes.fromhex("80440103010003"), id="SSL 2"),
    ],
)
def test_garbage_instead_of_tls_ends_with_a_tls_error(scene: Scene, garbage: bytes) -> None:
    if scene.server.door.tls is None:
        with scene.connect() as wire:  # on a plain HTTP port the bytes are half a head, or a bad one
            wire.offer(garbage + b"\r\n\r\n")
            assert wire.rest().startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        scene.logs("connection closed", "(bad_request|head_too_large)")
        return
    with scene.connect_without_tls() as wire:
        wire.offer(garbage)
        answer = wire.rest()
        assert answer[:1] in (b"", b"\x15")  # the end of the stream, or an alert
    scene.logs("connection closed", "tls_error")


@pytest.mark.parametrize("relay", TLS_KINDS, ids=str, indirect=True)
def test_garbage_after_the_tls_handshake_ends_with_a_tls_error(scene: Scene) -> None:
    with scene.join() as client:
        client.wire.send_without_tls(bytes.fromhex("1703030020") + bytes(32))
        with pytest.raises(ssl.SSLError, match="ALERT_BAD_RECORD_MAC"):
            client.wire.rest()
    scene.logs("client gone", "tls_error")


@pytest.mark.parametrize("relay", TLS_KINDS, ids=str, indirect=True)
def test_plain_http_to_the_tls_port_gets_an_error_page(scene: Scene) -> None:
    with scene.connect_without_tls() as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = wire.rest()
        assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
        assert b"HTTPS" in answer
    scene.logs("connection closed", "plain_http_on_tls")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", id="two lengths"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", id="two hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA b\r\n\r\n", id="a header without a colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", id="a control character"),
        pytest.param(b"\r\n\r\n", id="blank lines"),
        pytest.param(b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nTransfer-Encoding: chunked\r\n"
                     b"Content-Length: 3\r\n\r\n", id="chunked and a length"),
    ],
)  # fmt: skip
def test_a_bad_request_is_answered_400_and_closed(scene: Scene, head: bytes) -> None:
    with scene.connect() as wire:
        wire.send(head)
        answer = wire.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Server:" not in answer
    scene.logs("connection closed", "bad_request")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 1_000 + b"\r\n", 431),
    ],
)
def test_an_unserved_request_gets_the_matching_status(scene: Scene, head: bytes, status: int) -> None:
    with scene.connect() as wire:
        wire.send(head)
        assert wire.rest().startswith(b"HTTP/1.1 %d " % status)
    scene.logs("connection closed", "bad_request")


def test_a_login_frame_of_300_kb_is_rejected_by_its_header(scene: Scene) -> None:
    client = Client(scene.connect())
    with client:
        client.upgrade()
        client.wire.offer(frame_bytes(FrameType.CLIENT_INFO, bytes(300_000)))
        assert client.wire.rest() == b""
    scene.logs("connection closed", "login_failed", f"300000 payload bytes, at most {MAX_CLIENT_INFO}")


def test_a_login_with_a_wrong_box_is_rejected(scene: Scene) -> None:
    client = Client(scene.connect())
    with client:
        client.upgrade()
        another_server = LoginBox(client.private, new_key().public())
        client.wire.send(client_info_frame(client.key, ClientInfo(), another_server, bytes(24)))
        assert client.wire.rest() == b""
    scene.logs("connection closed", "login_failed", "does not open")


def test_a_frame_that_claims_four_gigabytes_ends_the_connection_at_its_header(scene: Scene) -> None:
    for kind in (FrameType.SEND_PACKET, FrameType.PING, 0x7F):
        with scene.join() as client:
            client.wire.offer(bytes((kind,)) + b"\xff\xff\xff\xff" + bytes(100_000))
            assert client.wire.rest() == b""
        scene.logs("client gone", "protocol_error", f"type {kind:#04x}.* of 4294967295 payload bytes")


def test_a_packet_of_65537_bytes_ends_the_connection(scene: Scene) -> None:
    with scene.join() as client, scene.join() as peer:
        client.wire.offer(frame_bytes(FrameType.SEND_PACKET, peer.key.raw + bytes(MAX_PACKET + 1)))
        assert client.wire.rest() == b""
        scene.logs("client gone", "protocol_error", "65569 payload bytes, wanted 32 to 65568")
        assert peer.fence() == []


def test_a_packet_of_65536_bytes_arrives(scene: Scene) -> None:
    packet = bytes(range(256)) * (MAX_PACKET // 256)
    with scene.join() as client, scene.join() as peer:
        client.send(peer.key, packet)
        assert peer.packet().packet == packet


def test_a_client_that_never_reads_is_closed_after_the_write_timeout_and_its_sender_is_not_harmed(
    slow_scene: Scene,
) -> None:
    server = slow_scene.server
    before = server.counted()
    blocked = Client.join(server.door, receive_buffer=8_192)
    with blocked, slow_scene.join() as sender, slow_scene.join() as friend:
        blocked.send(sender.key, b"hello")  # so that the sender gets PeerGone when it leaves
        assert sender.packet().source == blocked.key
        began = time.monotonic()
        gone = False
        sent = 0
        # It continues to send, and its packets to other clients arrive.
        while not gone:
            for _ in range(100):
                sender.send(blocked.key, bytes(8_000))
            sender.send(friend.key, sent.to_bytes(8, "big"))
            assert friend.packet().packet == sent.to_bytes(8, "big")
            sent += 1
            gone = any(frame.TYPE is FrameType.PEER_GONE for frame in sender.fence())
        assert WRITE_SECONDS <= time.monotonic() - began < WRITE_SECONDS + 2 * LATE
        slow_scene.logs("client gone", "write_timeout", "no progress for [0-9]+ ms")
        after = server.counted()
        assert after["sclient_write_timeouts"] == before["sclient_write_timeouts"] + 1
        assert after["drops"]["queue_head other"] > before["drops"]["queue_head other"]


def test_two_clients_with_one_key_that_alternate_at_full_speed_lose_no_packet(scene: Scene) -> None:
    rounds, pings = 200, 20
    with scene.join() as one, Client.join(scene.server.door, one.private) as other, scene.join() as sender:
        came: list[bytes] = []
        for number in range(rounds):
            # Each frame makes its sender the key's active connection.
            for twin in (one, other):
                twin.wire.send(Ping(bytes(8)).encode() * pings)
            sender.send(one.key, number.to_bytes(4, "big"))
            for twin in (one, other):
                answered = 0
                while answered < pings:
                    frame = twin.next()
                    answered += isinstance(frame, Pong)
                    came += [frame.packet] if isinstance(frame, RecvPacket) else []
        sender.ping()
        for twin in (one, other):
            came += [frame.packet for frame in twin.fence() if isinstance(frame, RecvPacket)]
        assert sorted(came) == [number.to_bytes(4, "big") for number in range(rounds)]


Step = Callable[[Scene], Wire]


def after_tcp_connect(scene: Scene) -> Wire:
    return scene.connect_without_tls()


def in_the_tls_handshake(scene: Scene) -> Wire:
    wire = scene.connect_without_tls()
    wire.send(CLIENT_HELLO_BEGINS)
    return wire


def after_connect(scene: Scene) -> Wire:
    return scene.connect()


def in_the_head(scene: Scene) -> Wire:
    wire = scene.connect()
    wire.send(HEAD[:20])
    return wire


def directly_after_the_head(scene: Scene) -> Wire:
    wire = scene.connect()
    wire.send(HEAD)
    return wire


def after_the_head(scene: Scene) -> Wire:
    wire = scene.connect()
    Client(wire).upgrade()
    return wire


def in_the_login(scene: Scene) -> Wire:
    client = Client(scene.connect())
    client.upgrade()
    client.wire.send(client.client_info()[:50])
    return client.wire


def directly_after_the_login(scene: Scene) -> Wire:
    client = Client(scene.connect())
    client.upgrade()
    client.wire.send(client.client_info())
    return client.wire


def after_the_login(scene: Scene) -> Wire:
    return scene.join().wire


def in_a_frame(scene: Scene) -> Wire:
    client = scene.join()
    client.fence()
    client.wire.send(SendPacket(client.key, bytes(1_000)).encode()[:500])
    return client.wire


def in_an_http_body(scene: Scene) -> Wire:
    wire = scene.connect()
    wire.send(b"POST /generate_204 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf of it")
    wire.head()
    return wire


STEPS: tuple[Step, ...] = (
    after_tcp_connect, in_the_tls_handshake, after_connect, in_the_head, directly_after_the_head, after_the_head,
    in_the_login, directly_after_the_login, after_the_login, in_a_frame, in_an_http_body,
)  # fmt: skip


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_reset_frees_all_state_of_its_client(scene: Scene, step: Step) -> None:
    before = scene.server.counted()
    step(scene).reset()
    scene.server.logged(r'event="(connection closed|client gone)" .*reason=reset', scene.since)
    after = scene.server.counted()
    assert all(after[name] == before[name] for name in ("connections", "keys_local", "keys_total"))


@pytest.mark.parametrize(
    "step", [after_connect, in_the_head, after_the_head, in_the_login, after_the_login, in_a_frame]
)
def test_a_client_whose_stream_ends_is_closed(scene: Scene, step: Step) -> None:
    with step(scene) as wire:
        wire.finish()
        wire.rest()
    scene.server.logged(r'event="(connection closed|client gone)" .*reason=eof', scene.since)


def test_memory_does_not_grow_with_the_number_of_offenders(slow_scene: Scene) -> None:
    def offend() -> None:
        with slow_scene.connect() as wire:
            wire.offer(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000)
            wire.rest()
        with slow_scene.join() as client:
            client.wire.offer(b"\x04\xff\xff\xff\xff" + bytes(50_000))
            client.wire.rest()
        for step in (in_the_login, in_a_frame, directly_after_the_login):
            step(slow_scene).reset()

    for _ in range(20):
        offend()
    memory = slow_scene.server.memory()
    for _ in range(60):
        offend()
    assert slow_scene.server.memory() - memory < 4 * MEGABYTE
