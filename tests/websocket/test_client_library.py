"""Clients on a well-kept WebSocket library, which reads strictly and knows nothing of DERP."""

import threading
from collections.abc import Iterator

import pytest
from derpwire import SECONDS, Client
from serving import Recorded, Server
from webclient import BIGGEST_MESSAGE, MOST_SENT, SIZES, Library, WebClient, packet_of, relay_both_ways

from derper.protocol.frames import MAX_PACKET, FrameType, RecvPacket, SendPacket
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
    """Read to the end: the status and the words of it."""
    while wire.some():
        pass
    return wire.connection.close_code, wire.connection.close_reason


def test_packets_of_every_size_are_relayed_to_and_from_a_client_on_tcp(web: WebClient, tcp: Client) -> None:
    relay_both_ways(web, tcp)
    web.ping()


def test_two_of_them_relay_to_each_other(server: Server, web: WebClient) -> None:
    with Library.open(server.door) as wire:
        relay_both_ways(web, WebClient.over(wire))


def test_the_subprotocol_is_chosen_and_the_offered_compression_is_not(wire: Library) -> None:
    request, response = wire.connection.request, wire.connection.response
    assert request is not None
    assert response is not None
    assert "permessage-deflate" in request.headers["Sec-WebSocket-Extensions"]
    assert "Sec-WebSocket-Extensions" not in response.headers
    assert wire.connection.subprotocol == "derp"


def test_a_client_that_takes_only_short_messages_gets_every_packet(server: Server, tcp: Client) -> None:
    with Library.open(server.door, takes=MOST_SENT) as wire:
        relay_both_ways(WebClient.over(wire), tcp)


@pytest.mark.parametrize("length", [1, 5, 37, 1_000, MOST_SENT])
def test_the_fragments_of_a_message_end_anywhere(wire: Library, web: WebClient, tcp: Client, length: int) -> None:
    packets = [packet_of(size) for size in (SIZES if length > 5 else SIZES[:5])]
    message = b"".join(SendPacket(tcp.key, packet).encode() for packet in packets)
    wire.send_fragments([message[at : at + length] for at in range(0, len(message), length)])
    assert [tcp.packet() for _ in packets] == [RecvPacket(web.key, packet) for packet in packets]


@pytest.mark.parametrize("length", [1, 5, 37, 1_000, 20_000])
def test_a_frame_spans_messages(wire: Library, web: WebClient, tcp: Client, length: int) -> None:
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


def test_a_message_of_a_mebibyte_holds_many_frames(wire: Library, web: WebClient, tcp: Client) -> None:
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
def test_a_websocket_ping_is_answered_with_what_it_said(wire: Library, web: WebClient, data: bytes) -> None:
    assert wire.connection.ping(data).wait(SECONDS)
    web.ping()


def test_an_unasked_websocket_pong_is_passed_over(wire: Library, web: WebClient) -> None:
    wire.connection.pong(b"unasked")
    web.ping()


@pytest.mark.parametrize(("status", "words"), [(1000, ""), (1001, "going away"), (3000, "x" * 123), (4999, "grüß")])
def test_a_goodbye_is_answered_in_its_own_words(wire: Library, web: WebClient, status: int, words: str) -> None:
    web.ping()
    wire.connection.close(status, words)
    assert (wire.connection.close_code, wire.connection.close_reason) == (status, words)


def test_a_goodbye_before_the_login_is_answered(wire: Library) -> None:
    wire.connection.close(1001)
    assert wire.connection.close_code == 1001


def test_the_partner_of_one_that_said_goodbye_hears_that_it_is_gone(web: WebClient, wire: Library, tcp: Client) -> None:
    web.send(tcp.key, b"hello")
    assert tcp.packet() == RecvPacket(web.key, b"hello")
    wire.connection.close()
    assert str(tcp.next()).startswith("PeerGone"), "the key is free as soon as the goodbye was read"


def test_a_bad_frame_of_derp_ends_with_an_ordinary_goodbye(wire: Library, web: WebClient) -> None:
    web.ping()
    wire.send(frame_bytes(FrameType.NOTE_PREFERRED, b"no"))
    assert ended(wire) == (1000, "")


def test_two_streams_at_once_lose_nothing_and_mix_up_nothing(server: Server, web: WebClient) -> None:
    packets = [packet_of(size, seed) for seed, size in enumerate(SIZES * 20)]
    with Library.open(server.door) as wire:
        other = WebClient.over(wire)
        ahead = threading.Semaphore(16)  # fewer than the server holds for one receiver

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
