"""Clients on a maintained WebSocket library with a strict parser and no knowledge of DERP."""

import threading
from collections.abc import Iterator

import pytest
from derpwire import SECONDS, Client
from serving import Recorded, Server
from webclient import BIGGEST_MESSAGE, MOST_SENT, SIZES, Library, WebClient, packet_of, relay_both_ways

from derper.protocol.frames import MAX_PACKET, FrameType, Pong, RecvPacket, SendPacket
from derper.protocol.reader import frame_bytes

pytest_plugins = ["hall"]

UNKNOWN = 0xEE


@pytest.fixture(params=[False, True], ids=["ws", "wss"])
def server(request: pytest.FixtureRequest, recorded: Recorded) -> Server:
    return recorded("websocket", tls=request.param)


@pytest.fixture
def wire(server: Server) -> Iterator[Library]:
    with Library.open(server.door) as wire:
        yield wire


@pytest.fixture
def web(wire: Library) -> WebClient:
    return WebClient.over(wire)


@pytest.fixture
def tcp(server: Server) -> Iterator[Client]:
    with Client.join(server.door) as client:
        yield client


def ended(wire: Library) -> tuple[int | None, str | None]:
    """Read to the end; return the status and the reason of the close frame."""
    while wire.some():
        pass
    return wire.connection.close_code, wire.connection.close_reason


def test_packets_of_every_size_are_relayed_to_and_from_a_client_on_tcp(web: WebClient, tcp: Client) -> None:
    relay_both_ways(web, tcp)
    web.ping()


def test_two_websocket_clients_relay_to_each_other(server: Server, web: WebClient) -> None:
    with Library.open(server.door) as wire:
        relay_both_ways(web, WebClient.over(wire))


def test_the_subprotocol_is_chosen_and_the_offered_compression_is_not(wire: Library) -> None:
    request, response = wire.connection.request, wire.connection.response
    assert request is not None
    assert response is not None
    assert "permessage-deflate" in request.headers["Sec-WebSocket-Extensions"]
    assert "Sec-WebSocket-Extensions" not in response.headers
    assert wire.connection.subprotocol == "derp"


def test_a_client_that_accepts_only_short_messages_gets_every_packet(server: Server, tcp: Client) -> None:
    with Library.open(server.door, takes=MOST_SENT) as wire:
        relay_both_ways(WebClient.over(wire), tcp)


@pytest.mark.parametrize("length", [1, 5, 37, 1_000, MOST_SENT])
def test_the_fragments_of_a_message_may_end_anywhere(wire: Library, web: WebClient, tcp: Client, length: int) -> None:
    packets = [packet_of(size) for size in (SIZES if length > 5 else SIZES[:5])]
    message = b"".join(SendPacket(tcp.key, packet).encode() for packet in packets)
    wire.send_fragments([message[at : at + length] for at in range(0, len(message), length)])
    assert [tcp.packet() for _ in packets] == [RecvPacket(web.key, packet) for packet in packets]


@pytest.mark.parametrize("length", [1, 5, 37, 1_000, 20_000])
def test_a_frame_may_span_messages(wire: Library, web: WebClient, tcp: Client, length: int) -> None:
    packet = packet_of(MAX_PACKET if length > 5 else 1_000)
    frame = SendPacket(tcp.key, packet).encode()
    for at in range(0, len(frame), length):
        wire.send(frame[at : at + length])
    assert tcp.packet() == RecvPacket(web.key, packet)


def test_the_fragments_of_a_message_may_be_empty(wire: Library, web: WebClient) -> None:
    frame = SendPacket(web.key, b"to myself").encode()
    wire.send(b"")
    wire.send_fragments([b"", frame[:7], b"", b"", frame[7:], b""])
    assert web.packet() == RecvPacket(web.key, b"to myself")


def test_a_message_of_a_mebibyte_may_have_many_frames(wire: Library, web: WebClient, tcp: Client) -> None:
    packets = [packet_of(MAX_PACKET, seed) for seed in range(15)]
    frames = b"".join(SendPacket(tcp.key, packet).encode() for packet in packets)
    padding = BIGGEST_MESSAGE - len(frames) - 5
    message = frames + frame_bytes(UNKNOWN, bytes(padding))
    assert len(message) == BIGGEST_MESSAGE
    wire.send(message)
    assert [tcp.packet() for _ in packets] == [RecvPacket(web.key, packet) for packet in packets]
    web.ping()


def test_a_message_of_a_byte_more_is_too_big(wire: Library, web: WebClient) -> None:
    web.ping()
    wire.send(bytes(BIGGEST_MESSAGE + 1))
    assert ended(wire) == (1009, "")


@pytest.mark.parametrize("data", [b"", b"hello", bytes(125)], ids=["empty", "short", "longest"])
def test_a_websocket_ping_is_answered_with_its_data(wire: Library, web: WebClient, data: bytes) -> None:
    assert wire.connection.ping(data).wait(SECONDS)
    web.ping()


def test_an_unsolicited_websocket_pong_is_ignored(wire: Library, web: WebClient) -> None:
    wire.connection.pong(b"unasked")
    web.ping()


@pytest.mark.parametrize(("status", "words"), [(1000, ""), (1001, "going away"), (3000, "x" * 123), (4999, "grüß")])
def test_a_close_frame_is_answered_with_its_status_and_reason(
    wire: Library, web: WebClient, status: int, words: str
) -> None:
    web.ping()
    wire.connection.close(status, words)
    assert (wire.connection.close_code, wire.connection.close_reason) == (status, words)


def test_a_close_frame_before_the_login_is_answered(wire: Library) -> None:
    wire.connection.close(1001)
    assert wire.connection.close_code == 1001


def test_a_receiver_gets_peer_gone_after_a_close_frame_of_its_sender(
    web: WebClient, wire: Library, tcp: Client
) -> None:
    web.send(tcp.key, b"hello")
    assert tcp.packet() == RecvPacket(web.key, b"hello")
    wire.connection.close()
    assert str(tcp.next()).startswith("PeerGone"), "the key is free as soon as the goodbye was read"


def test_an_invalid_derp_frame_ends_with_an_ordinary_close_frame(wire: Library, web: WebClient) -> None:
    web.ping()
    wire.send(frame_bytes(FrameType.NOTE_PREFERRED, b"no"))
    assert ended(wire) == (1000, "")


def test_frames_before_a_close_frame_are_answered_before_it(wire: Library, web: WebClient) -> None:
    with wire.connection.protocol_mutex:
        protocol = wire.connection.protocol
        protocol.send_binary(frame_bytes(FrameType.PING, bytes(8)))
        protocol.send_close(1000, "enough")
        wire.connection.socket.sendall(b"".join(protocol.data_to_send()))
    assert web.next() == Pong(bytes(8))
    assert ended(wire) == (1000, "enough")


def test_two_concurrent_streams_lose_no_packet_and_keep_their_order(server: Server, web: WebClient) -> None:
    packets = [packet_of(size, seed) for seed, size in enumerate(SIZES * 20)]
    with Library.open(server.door) as wire:
        other = WebClient.over(wire)
        ahead = threading.Semaphore(16)  # fewer than the server queues for one receiver

        def send() -> None:
            for packet in packets:
                ahead.acquire()
                web.send(other.key, packet)
                other.send(web.key, packet)

        sender = threading.Thread(target=send)
        sender.start()
        for packet in packets:
            assert other.packet() == RecvPacket(web.key, packet)
            assert web.packet() == RecvPacket(other.key, packet)
            ahead.release()
        sender.join()
