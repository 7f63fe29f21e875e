"""What stands between a prober and a relay in tests: a TCP proxy with little bandwidth, a STUN port that fails."""

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
    """Let connections to a port of ours through to `port`, but no more bytes a second than this; gives our port."""
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
            # Little in between, or the kernel's buffers are the bandwidth.
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
    """A UDP port where requests go and nothing comes back from; gives the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def mistaken(port: int) -> Iterator[int]:
    """A UDP port that answers with what the STUN server at `port` says to another request; gives the port."""
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
