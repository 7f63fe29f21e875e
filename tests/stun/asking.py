"""A STUN client, written from the wire page, and the server as a separate process."""

import re
import secrets
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, NamedTuple

COOKIE: Final = bytes.fromhex("2112a442")
SOFTWARE: Final = 0x8022
FINGERPRINT: Final = 0x8028
LONGEST_ANSWER: Final = 44
PATIENCE: Final = 10.0  # seconds


class Address(NamedTuple):
    ip: IPv4Address | IPv6Address
    port: int


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack(">HH", kind, len(value)) + value + bytes(-len(value) % 4)


def fingerprint(before: bytes) -> bytes:
    return attribute(FINGERPRINT, struct.pack(">I", zlib.crc32(before) ^ 0x5354554E))


def header(length: int, tx_id: bytes) -> bytes:
    return struct.pack(">HH", 1, length) + COOKIE + tx_id


def request(tx_id: bytes) -> bytes:
    """Return the request of a Tailscale client."""
    begin = header(20, tx_id) + attribute(SOFTWARE, b"tailnode")
    return begin + fingerprint(begin)


def mapped_address(answer: bytes, tx_id: bytes) -> Address:
    """Return the address in an answer to this request; the datagram has to be exactly an answer."""
    assert answer[:2] == b"\x01\x01"
    assert answer[4:20] == COOKIE + tx_id
    kind, length, family, port = struct.unpack(">HHxBH", answer[20:28])
    assert (kind, len(answer)) == (0x0020, 24 + length)
    assert int.from_bytes(answer[2:4], "big") == 4 + length
    ip = bytes(a ^ b for a, b in zip(answer[28:], COOKIE + tx_id, strict=False))
    assert (family, len(ip)) in {(1, 4), (2, 16)}
    return Address(ip_address(ip), port ^ 0x2112)


class Client:
    """A socket for one server. Answers must come from the requested address."""

    def __init__(self, ip: str, port: int) -> None:
        self._sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.settimeout(PATIENCE)
        self._sock.bind(("::1" if ":" in ip else "127.0.0.1", 0))
        self._server = (ip, port)

    @property
    def address(self) -> Address:
        ip, port = self._sock.getsockname()[:2]
        return Address(ip_address(ip), port)

    def send(self, datagram: bytes) -> None:
        self._sock.sendto(datagram, self._server)

    def receive(self, seconds: float = PATIENCE) -> bytes:
        self._sock.settimeout(seconds)
        answer, source = self._sock.recvfrom(2048)
        assert source[:2] == self._server
        assert len(answer) <= LONGEST_ANSWER
        return answer

    def ask(self) -> Address:
        """Send a valid request; return the address in its answer."""
        tx_id = secrets.token_bytes(12)
        self.send(request(tx_id))
        return mapped_address(self.receive(), tx_id)

    def answers_to(self, datagram: bytes) -> list[bytes]:
        """Return the answers to a datagram that arrive before the answer to a valid request sent after it."""
        self.send(datagram)
        tx_id = secrets.token_bytes(12)
        self.send(request(tx_id))
        answers = []
        while (answer := self.receive())[8:20] != tx_id:
            answers.append(answer)
        return answers

    def close(self) -> None:
        self._sock.close()


@contextmanager
def client(ip: str, port: int) -> Iterator[Client]:
    asking = Client(ip, port)
    try:
        yield asking
    finally:
        asking.close()


@dataclass(frozen=True)
class Server:
    """A running server."""

    main_port: int
    stun_port: int  # 0 without STUN
    pid: int
    log: str  # up to the start of service


@contextmanager
def server(folder: Path, host: str = "", *flags: str) -> Iterator[Server]:
    """Run our server on ports chosen by the kernel; stop it cleanly afterwards."""
    words = ("-c", str(folder / "derper.key"), "-a", f"{host}:0", "-stun-port", "0", *flags)
    with subprocess.Popen([sys.executable, "-m", "derper", *words], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            log = ""
            while "event=serving" not in log:
                line = process.stderr.readline()
                assert line, log
                log += line
            ports = {event: int(port) for event, port in re.findall(r'event="?([\w ]+)"? .*address=\S+:(\d+)', log)}
            yield Server(ports["serving"], ports.get("answering STUN", 0), process.pid, log)
            process.terminate()
            assert process.wait(PATIENCE) == 0, process.stderr.read()
        finally:
            process.kill()
