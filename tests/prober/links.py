"""Faulty links between a prober and a relay: a TCP proxy with little bandwidth, STUN ports that fail."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Final

from relays import HOST

_CHUNK: Final = 4_096


@contextlib.contextmanager
def narrow(port: int, octets_per_second: int) -> Iterator[int]:
    """Forward connections to `port` with at most `octets_per_second`; yield the proxy's port."""
    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=_accept, args=(listener, port, octets_per_second), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, port: int, rate: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            near, _ = listener.accept()
            far = socket.create_connection((HOST, port))
            threading.Thread(target=_join, args=(near, far, rate), daemon=True).start()


def _join(near: socket.socket, far: socket.socket, rate: int) -> None:
    with near, far:
        for end in (near, far):
            # Small buffers, or the kernel would buffer the whole test.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _CHUNK)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
        back = threading.Thread(target=_carry, args=(far, near, rate), daemon=True)
        back.start()
        _carry(near, far, rate)
        back.join()


def _carry(source: socket.socket, sink: socket.socket, rate: int) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
            time.sleep(len(data) / rate)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """Open a UDP port that never answers; yield the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def mistaken(port: int) -> Iterator[int]:
    """Open a UDP port that sends the answer of the STUN server at `port` to another request; yield the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        threading.Thread(target=_mistake, args=(sock, port), daemon=True).start()
        yield sock.getsockname()[1]
        sock.sendto(b"", sock.getsockname())


def _mistake(sock: socket.socket, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((HOST, port))
        asking.settimeout(5)
        while True:
            request, sender = sock.recvfrom(2_048)
            if not request:
                return
            # The fingerprint is over the whole message, so the transaction ID is changed in the answer.
            asking.send(request)
            answer = bytearray(asking.recv(2_048))
            answer[8] ^= 1
            sock.sendto(answer, sender)
