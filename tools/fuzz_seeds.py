"""Writes the first inputs of the fuzz targets from the recorded vectors: a folder per target.

An input begins with the bytes by which its target splits it and chooses its sender (rust/fuzz/src).
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent.parent / "tests" / "vectors"


def load(name: str) -> dict[str, Any]:
    """Return the contents of one file of vectors."""
    vectors: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return vectors


def heads() -> Iterator[bytes]:
    """Yield every request head alone, then the first one followed by each of the login frames."""
    requests = [exchange["request"].encode() for exchange in load("http")["exchanges"] if "request" in exchange]
    for request in requests:
        yield b"\0\0" + request
    for case in load("login")["client_info"]["cases"]:
        yield b"\0\1" + requests[0] + bytes.fromhex(case["send"])


def frames() -> Iterator[bytes]:
    """Yield frames of logged-in clients, mesh peers and nodes."""
    vectors = load("frames")
    for case in vectors["client_to_server"]:
        yield (b"\1" if case["login"] == "mesh" else b"\0") + b"\0\0" + bytes.fromhex(case["frame"])
    for case in vectors["client_to_server_unusual"]:
        if "send" in case:
            yield (b"\x82" if case["login"] == "mesh" else b"\x81") + b"\0\0" + bytes.fromhex(case["send"])
    for case in vectors["server_to_client"]:
        yield b"\2\0\0" + bytes.fromhex(case["frame"])
    for session in ("incoming", "dialled"):
        for event in load("mesh_session")[session]["events"]:
            if "http" not in event and "bytes" in event:
                who = b"\2" if event["dir"] == "server>client" else b"\1"
                yield who + b"\0\0" + bytes.fromhex(event["bytes"])


def tls() -> Iterator[bytes]:
    """Yield beginnings of handshakes, valid and invalid."""
    yield b"\0\0" + b"GET / HTTP/1.1\r\n\r\n"
    # The first bytes of a ClientHello, whole and in small records.
    hello = bytes.fromhex("01000035 0303") + bytes(32) + bytes.fromhex("00 0002 1301 0100 000a 000a0004 0002001d 0000")
    yield b"\0\0" + b"\x16\3\1" + len(hello).to_bytes(2, "big") + hello
    yield b"\0\1" + hello
    yield b"\0\6" + hello


def records() -> Iterator[bytes]:
    """Yield records: an operation, a length, content; repeated."""
    login = b"GET /derp HTTP/1.1\r\n\r\n" + b"\2\0\0\0\x21" + bytes(32) + b"\0"
    said = [(0, login), (0, b"\4\0\0\0\x21" + bytes(33)), (1, b"\x18\0\0\1\1"), (2, b"\1\0"), (4, b"\4\0"), (7, b"")]
    for piece in (0, 1):
        yield bytes([piece]) + b"".join(bytes([op, len(content)]) + content for op, content in said)
        for op, content in said:
            yield bytes([piece, op, len(content)]) + content


def websocket() -> Iterator[bytes]:
    """Yield frames of WebSocket clients."""
    for case in load("http")["websocket"]:
        yield b"\0\0" + b"".join(bytes.fromhex(sent) for sent in case.get("client_sends", []) if isinstance(sent, str))


def stun() -> Iterator[bytes]:
    """Yield datagrams."""
    for case in load("stun")["datagrams"]:
        yield bytes.fromhex(case["datagram"])


def main(corpus: Path) -> None:
    """Write all seeds under `corpus`."""
    for seeds in (heads, frames, tls, records, websocket, stun):
        folder = corpus / seeds.__name__
        folder.mkdir(parents=True, exist_ok=True)
        for seed in seeds():
            (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
