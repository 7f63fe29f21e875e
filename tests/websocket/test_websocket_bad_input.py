"""Bad input over WebSocket closes only its sender's connection, with a status for the reason."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from bystanders import Bystanders
from derpwire import Client
from serving import Server, vectors
from webclient import BIGGEST_MESSAGE, MOST_SENT, SIZES, UPGRADE, ByHand, WebClient, masked, packet_of
from websockets.frames import Close, Opcode

from derper.protocol.frames import MAX_PACKET, Ping, Pong, RecvPacket, SendPacket
from derper.protocol.keys import NodePrivate, NodePublic
from derper.protocol.reader import frame_bytes

pytest_plugins = ["hall"]

MEGABYTE = 1 << 20
LOOSELY = 24 * MEGABYTE  # tolerance for the system, the allocator and the bystanders
UNKNOWN = 0xEE
TO_NOBODY = SendPacket(NodePublic(bytes(range(32))), packet_of(1_000)).encode()
NORMAL, BREACH, NOT_TEXT, TOO_BIG = 1000, 1002, 1003, 1009


@dataclass
class Scene:
    """A server with a well-behaved pair of clients, and its log from now on."""

    server: Server
    since: int

    def open(self) -> ByHand:
        return ByHand.open(self.server.door)

    def logs(self, reason: str, detail: str = "") -> None:
        """Wait for the line about the end of the offender's connection; the detail is a regular expression."""
        self.server.logged(rf"event=\"(client gone|connection closed)\" .*reason={reason}\b.*{detail}", self.since)


@pytest.fixture
def scene(relay: Server) -> Iterator[Scene]:
    with Bystanders(relay.door) as bystanders:
        memory = relay.memory()
        yield Scene(relay, relay.mark())
        bystanders.relay_on()
        assert relay.memory() - memory < LOOSELY


@dataclass(frozen=True)
class Offence:
    """The bytes that a client sends, the status of the close frame, and the text in the log."""

    sends: bytes
    status: int
    logged: str


def without_mask(frame: bytes) -> bytes:
    return bytes([frame[0], frame[1] & 0x7F]) + frame[2:]


OFFENCES = {
    "no mask": Offence(without_mask(masked(0x82, b"x" * 20)), BREACH, "a frame without a mask"),
    "first reserved bit": Offence(masked(0xC2, b"x"), BREACH, "reserved bits"),
    "second reserved bit": Offence(masked(0xA2, b"x"), BREACH, "reserved bits"),
    "third reserved bit": Offence(masked(0x92, b"x"), BREACH, "reserved bits"),
    "reserved bit of a ping": Offence(masked(0xC9, b"x"), BREACH, "reserved bits"),
    "reserved opcode": Offence(masked(0x83, b"x"), BREACH, "opcode 0x3 out of place"),
    "reserved control opcode": Offence(masked(0x8F, b"x"), BREACH, "opcode 0xf out of place"),
    "continuation of nothing": Offence(masked(0x80, b"x"), BREACH, "opcode 0x0 out of place"),
    "a message within another": Offence(masked(0x02) + masked(0x82), BREACH, "opcode 0x2 out of place"),
    "a text within a message": Offence(masked(0x02) + masked(0x81), BREACH, "opcode 0x1 out of place"),
    "text": Offence(masked(0x81, b"hello"), NOT_TEXT, "a text message"),
    "fragmented text": Offence(masked(0x01, b"hel") + masked(0x80, b"lo"), NOT_TEXT, "a text message"),
    "ping of 126 bytes": Offence(masked(0x89, bytes(126)), BREACH, "longer than 125 bytes"),
    "ping of 2^63 bytes": Offence(masked(0x89, length=1 << 63), BREACH, "longer than 125 bytes"),
    "close of 126 bytes": Offence(masked(0x88, bytes(126)), BREACH, "longer than 125 bytes"),
    "fragmented ping": Offence(masked(0x09, b"x"), BREACH, "fragmented"),
    "fragmented close": Offence(masked(0x08, b"\x03\xe8"), BREACH, "fragmented"),
    "2^63 bytes": Offence(masked(0x82, length=1 << 63), TOO_BIG, r"a message of [\d,]+ bytes"),
    "2^64 - 1 bytes": Offence(masked(0x82, length=(1 << 64) - 1), TOO_BIG, r"a message of [\d,]+ bytes"),
    "fragments of 2^63 bytes": Offence(masked(0x02, b"x") + masked(0x00, length=1 << 63), TOO_BIG, "a message of"),
    "a byte too many": Offence(masked(0x82, length=BIGGEST_MESSAGE + 1), TOO_BIG, "a message of"),
}


@pytest.mark.parametrize("most", [MEGABYTE, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("offence", OFFENCES.values(), ids=OFFENCES)
def test_an_offender_gets_the_status_and_no_other_client_is_affected(scene: Scene, offence: Offence, most: int) -> None:
    with scene.open() as socket:
        web = WebClient.over(socket)
        web.ping()
        for at in range(0, len(offence.sends), most):
            socket.wire.offer(offence.sends[at : at + most])
        assert socket.read_close() == Close(offence.status, "")
    scene.logs("protocol_error", offence.logged)


@pytest.mark.parametrize("offence", OFFENCES.values(), ids=OFFENCES)
def test_an_offence_instead_of_the_login_has_the_same_result(scene: Scene, offence: Offence) -> None:
    with scene.open() as socket:
        socket.wire.offer(offence.sends)
        assert socket.read_close() == Close(offence.status, "")
    scene.logs("protocol_error", offence.logged)


def test_an_offence_directly_after_the_request_has_the_same_result(scene: Scene) -> None:
    with ByHand(scene.server.door.connect()) as socket:
        socket.wire.send(UPGRADE + masked(0x81, b"hello"))
        socket.read_answer()
        assert socket.read_close() == Close(NOT_TEXT, "")
    scene.logs("protocol_error", "a text message")


def test_an_endless_message_is_rejected(scene: Scene) -> None:
    """Each fragment holds only whole frames, so nothing is buffered. The server still rejects an endless message."""
    fragment = TO_NOBODY * 30
    with scene.open() as socket:
        WebClient.over(socket)
        socket.wire.send(masked(0x02, fragment))
        for _ in range(BIGGEST_MESSAGE // len(fragment)):
            socket.wire.offer(masked(0x00, fragment))
        assert socket.read_close() == Close(TOO_BIG, "")
    scene.logs("protocol_error", "a message of")


def test_endless_empty_fragments_use_no_memory(scene: Scene) -> None:
    with scene.open() as socket:
        web = WebClient.over(socket)
        socket.wire.send(masked(0x02))
        for _ in range(20):
            socket.wire.send(masked(0x00) * 10_000)
        socket.wire.send(masked(0x80, Ping(b"the end.").encode()))
        assert web.next() == Pong(b"the end.")


def test_endless_pings_without_reading_use_bounded_memory(scene: Scene) -> None:
    """Unread answers are bounded: further pings are not answered."""
    door = scene.server.door
    with ByHand(door.connect(receive_buffer=4_096)) as socket:
        socket.wire.send(UPGRADE)
        socket.read_answer()
        WebClient.over(socket)
        flood = masked(0x89, bytes(125)) * 10_000
        for _ in range(40):
            socket.wire.offer(flood)
        assert scene.server.alive


def test_a_ping_in_a_frame_of_a_mebibyte_is_answered_in_its_turn(scene: Scene) -> None:
    with scene.open() as socket:
        web = WebClient.over(socket)
        message = frame_bytes(UNKNOWN, bytes(MAX_PACKET)) * 15
        socket.wire.send(masked(0x02, message) + masked(0x89, b"between") + masked(0x80, Ping(b"the end.").encode()))
        assert web.next() == Pong(b"the end.")
        assert [frame.data for frame in socket.came if frame.opcode is Opcode.PONG] == [b"between"]


def test_the_end_after_half_a_message_frees_all_state(scene: Scene) -> None:
    with scene.open() as socket:
        web = WebClient.over(socket)
        web.ping()
        socket.wire.send(masked(0x82, TO_NOBODY)[:500])
        socket.wire.finish()
        socket.wire.rest()
    scene.logs("eof")


def test_pings_do_not_extend_the_deadline_of_a_login(scene: Scene) -> None:
    with scene.open() as socket:
        ping = masked(0x89, b"still here")
        socket.wire.send(ping)
        while (frame := socket.next()).opcode is not Opcode.CLOSE:
            if frame.opcode is Opcode.PONG:
                socket.wire.offer(ping)
        assert Close.parse(frame.data) == Close(NORMAL, "")
    scene.logs("login_timeout")


def test_frames_before_an_offence_are_relayed_and_answered_before_its_close_frame(scene: Scene) -> None:
    with scene.open() as socket, Client.join(scene.server.door) as tcp:
        web = WebClient.over(socket)
        sent = SendPacket(tcp.key, b"a last word").encode() + Ping(b"and ping").encode()
        socket.wire.send(masked(0x82, sent) + masked(0x81, b"hello"))
        assert RecvPacket(web.key, b"a last word") in (tcp.next(), tcp.next()), "the other is PeerGone"
        assert web.next() == Pong(b"and ping")
        assert socket.read_close() == Close(NOT_TEXT, "")


def test_bytes_after_a_close_frame_are_ignored(scene: Scene) -> None:
    with scene.open() as socket, Client.join(scene.server.door) as tcp:
        WebClient.over(socket)
        late = SendPacket(tcp.key, b"too late").encode()
        socket.wire.send(masked(0x88, b"\x03\xe8") + masked(0x82, late) + masked(0x89, b"?"))
        assert socket.read_close() == Close(NORMAL, "")
        assert tcp.fence() == []


@pytest.mark.parametrize("mask", [bytes(4), b"\xff" * 4, b"\x00\x00\x00\x01"], ids=bytes.hex)
def test_every_mask_is_removed(scene: Scene, mask: bytes) -> None:
    with scene.open() as socket:
        web = WebClient.over(socket)
        for size in range(9):
            socket.wire.send(masked(0x82, SendPacket(web.key, packet_of(size)).encode(), mask=mask))
            assert web.packet() == RecvPacket(web.key, packet_of(size))


def test_bytes_directly_after_the_request_belong_to_the_websocket(scene: Scene) -> None:
    """Request, login and packet in one segment, as a client can send them if it knows the server's key."""
    server_key = NodePrivate(bytes.fromhex(vectors("frames")["keys"]["server_private"])).public()
    for length in (1, 7, 1 << 20):
        with ByHand(scene.server.door.connect()) as socket:
            web = WebClient(socket)
            web.expect(server_key)
            login, packet = (
                masked(0x82, web.client_info()),
                masked(0x82, SendPacket(web.key, packet_of(1_280)).encode()),
            )
            stream = UPGRADE + login + packet + masked(0x89, b"and ping")
            for at in range(0, len(stream), length):
                socket.wire.send(stream[at : at + length])
            socket.read_answer()
            web.upgrade()
            web.welcome()
            assert web.packet() == RecvPacket(web.key, packet_of(1_280))
            web.ping()
            assert [frame.data for frame in socket.came if frame.opcode is Opcode.PONG] == [b"and ping"]


def test_a_close_frame_directly_after_the_request_is_answered(scene: Scene) -> None:
    with ByHand(scene.server.door.connect()) as socket:
        socket.wire.send(UPGRADE + masked(0x88, b"\x03\xe9bye"))
        socket.read_answer()
        assert socket.read_close() == Close(1001, "bye")


def test_packets_sent_byte_by_byte_arrive_whole(scene: Scene) -> None:
    with scene.open() as socket, Client.join(scene.server.door) as tcp:
        web = WebClient.over(socket)
        for size in SIZES[:5]:
            for byte in masked(0x82, SendPacket(tcp.key, packet_of(size)).encode()):
                socket.wire.send(bytes([byte]))
            assert tcp.packet() == RecvPacket(web.key, packet_of(size))


def test_no_message_of_ours_is_too_long_for_any_client(scene: Scene) -> None:
    with scene.open() as socket, Client.join(scene.server.door) as tcp:
        web = WebClient.over(socket)
        for size in SIZES:
            tcp.send(web.key, packet_of(size))
            web.packet()
        lengths = [len(frame.data) for frame in socket.came]
        assert max(lengths) == MOST_SENT
        assert min(lengths) > 0
        assert all(frame.fin and frame.opcode is Opcode.BINARY for frame in socket.came)
