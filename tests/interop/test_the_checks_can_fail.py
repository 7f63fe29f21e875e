"""The checks of derpcheck detect faults: a single wrong frame of a server makes them fail.

The reference server is behind a proxy that corrupts one frame from the server.
"""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

import pytest
from realclient import Verdict, check
from relays import HOST, GoDerper, Relay

SECONDS_TO_MISS_ONE = 2  # timeout for a lost frame
HEADER = 5
RECV_PACKET, PEER_GONE, PONG = 0x05, 0x08, 0x13

# The result for a frame: the bytes sent in its place, and the bytes after the next frame of its type.
Spoil = Callable[[bytes], tuple[bytes, bytes]]


def flip_last_bit(frame: bytes) -> tuple[bytes, bytes]:
    return frame[:-1] + bytes([frame[-1] ^ 1]), b""


def change_key(frame: bytes) -> tuple[bytes, bytes]:
    return frame[:HEADER] + bytes([frame[HEADER] ^ 1]) + frame[HEADER + 1 :], b""


def lose(frame: bytes) -> tuple[bytes, bytes]:
    return frame[:0], b""


def repeat(frame: bytes) -> tuple[bytes, bytes]:
    return frame + frame, b""


def delay(frame: bytes) -> tuple[bytes, bytes]:
    return b"", frame


def leave_alone(frame: bytes) -> tuple[bytes, bytes]:
    return frame, b""


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with GoDerper(tmp_path_factory.mktemp("go-spoilt")) as started:
        yield started


class Spoiler(socketserver.ThreadingTCPServer):
    """A proxy of a server that corrupts the second frame of one type to each client."""

    def __init__(self, relay: Relay, frame_type: int, spoil: Spoil) -> None:
        super().__init__((HOST, 0), Connection)
        self.relay = relay
        self.frame_type = frame_type
        self.spoil = spoil

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self._serving = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._serving.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._serving.join()
        self.server_close()  # waits for the connections: the client's process has ended, so theirs end too


class Connection(socketserver.BaseRequestHandler):
    server: Spoiler
    request: socket.socket

    def handle(self) -> None:
        with socket.create_connection((HOST, self.server.relay.port)) as onward:
            to_server = threading.Thread(target=copy, args=(self.request, onward))
            to_server.start()
            with onward.makefile("rb") as stream, contextlib.suppress(OSError):
                copy_spoilt(stream, self.request, self.server.frame_type, self.server.spoil)
            with contextlib.suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)
            to_server.join()


def copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def copy_spoilt(source: BinaryIO, sink: socket.socket, frame_type: int, spoil: Spoil) -> None:
    for line in source:  # the answer to the upgrade
        sink.sendall(line)
        if line == b"\r\n":
            break
    seen = 0
    late = b""
    while header := source.read(HEADER):
        frame = header + source.read(int.from_bytes(header[1:]))
        if header[0] == frame_type:
            seen += 1
            if seen == 2:
                frame, late = spoil(frame)
            elif seen == 3:
                frame += late
        sink.sendall(frame)


def spoilt_check(
    relay: Relay, scenario: str, frame_type: int, spoil: Spoil, seconds: int = SECONDS_TO_MISS_ONE
) -> Verdict:
    with Spoiler(relay, frame_type, spoil) as proxy:
        return check(scenario, proxy.url, "-packets", "1000", "-clients", "4", seconds=seconds)


@pytest.mark.parametrize("scenario", ["relay", "bulk", "crowd"])
@pytest.mark.parametrize("spoil", [flip_last_bit, change_key, lose, repeat, delay])
def test_a_corrupted_packet_is_detected(relay: Relay, scenario: str, spoil: Spoil) -> None:
    verdict = spoilt_check(relay, scenario, RECV_PACKET, spoil)
    assert not verdict.ok
    assert "wants packet of" in verdict.error


@pytest.mark.parametrize("scenario", ["eager", "reconnect", "preferred", "duplicates"])
def test_a_changed_packet_is_detected(relay: Relay, scenario: str) -> None:
    verdict = spoilt_check(relay, scenario, RECV_PACKET, flip_last_bit)
    assert not verdict.ok
    assert "wants packet of" in verdict.error


def test_a_lost_answer_to_a_ping_is_detected(relay: Relay) -> None:
    assert not spoilt_check(relay, "ping", PONG, lose).ok


def test_a_changed_answer_to_a_ping_is_detected(relay: Relay) -> None:
    assert not spoilt_check(relay, "ping", PONG, flip_last_bit).ok


@pytest.mark.parametrize("spoil", [flip_last_bit, change_key, lose, repeat])
def test_a_wrong_peer_gone_is_detected(relay: Relay, spoil: Spoil) -> None:
    verdict = spoilt_check(relay, "gone", PEER_GONE, spoil)
    assert not verdict.ok
    assert "PeerGone" in verdict.error


def test_the_known_fault_of_the_reference_is_detected(relay: Relay) -> None:
    verdict = check("gone-again", relay.url, seconds=SECONDS_TO_MISS_ONE)
    assert not verdict.ok
    assert "visit 1" in verdict.error


def test_a_certificate_other_than_the_pinned_one_is_rejected(tmp_path: Path) -> None:
    with GoDerper(tmp_path, tls=True) as relay:
        other = relay.pin[:-1] + ("1" if relay.pin.endswith("0") else "0")
        verdict = check("ping", relay.url, "-pin", other)
        assert not verdict.ok
        assert "cert hash does not match" in verdict.error
        assert check("ping", relay.url, "-pin", relay.pin).ok
        assert relay.stop() == 0


def test_an_unchanged_stream_passes(relay: Relay) -> None:
    for scenario in ("relay", "bulk", "crowd", "gone", "ping", "eager", "reconnect", "preferred", "duplicates"):
        verdict = spoilt_check(relay, scenario, RECV_PACKET, leave_alone, seconds=30)
        assert verdict.ok, (scenario, verdict.error)
