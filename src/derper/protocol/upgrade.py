"""The upgrade of an HTTP/1 request to a DERP stream: both sides' heads, and the server's decision.

The server parses one request head (`RequestHead.parse`), and calls `decide` for `/derp`. The client builds its head
(`upgrade_request`) and parses the answer's (`UpgradeAnswer.parse`). h11 does the parsing; its errors become
`ProtocolError`. A head ends with its blank line. The next bytes are DERP (with fast start in the same segment), never a
second request. See docs/protocol/protocol.md, Getting to the first frame and WebSocket.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import h11

from derper.errors import ProtocolError
from derper.protocol.frames import PROTOCOL_VERSION
from derper.protocol.keys import NodePublic

FAST_START = "Derp-Fast-Start"
IDEAL_NODE = "Ideal-Node"
SUBPROTOCOL = "derp"
MAX_HEAD = 65_536  # bytes of a head, including its blank line; DERP's own have about 200

MAX_LINES = 128  # of a head; each line costs time of the only Python thread
_LONGEST_BODY = 2**63 - 1

_BLANK_LINE = re.compile(rb"\n\r?\n")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # h11 accepts most of these in a value
_HOST = re.compile(r"[A-Za-z0-9!$%&'()*+,\-.:;=\[\]_~]*")  # characters that a redirect may repeat
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_OF_CLIENTS = b"GET /derp "
_REMEMBERED_HEADS = 256
_REMEMBERED_LEN = 1_024  # bytes; a client's own has about 150
_WEBSOCKET_KEY_LEN = 16
_WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def head_length(data: bytes) -> int | None:
    """Return the length of the HTTP head at the beginning of a stream.

    Args:
        data: The stream's bytes so far.

    Returns:
        Bytes, the blank line included; None: the head is not complete.

    Raises:
        ProtocolError: The first 65,536 bytes contain no blank line.

    Source: docs/protocol/protocol.md, Getting to the first frame.
    """
    end = _BLANK_LINE.search(data, 0, MAX_HEAD)
    if end:
        return end.end()
    if len(data) >= MAX_HEAD:
        raise ProtocolError(f"wanted an HTTP head of at most {MAX_HEAD:,} bytes, got no blank line")
    return None


class HeadError(ProtocolError):
    """A head that is rejected with a more specific status than 400."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestHead:
    """One parsed HTTP/1 request head."""

    method: str
    target: str  # as sent: `/path?query`, `http://host/path`, `host:port` for CONNECT, or `*`
    version: str  # "1.0" or "1.1"
    headers: tuple[tuple[str, str], ...]  # in order; names in small letters, values as Latin-1

    @staticmethod
    def parse(head: bytes) -> RequestHead:
        """Return one complete head, from the method to the blank line.

        Raises:
            ProtocolError: No Host, several or an invalid one, contradicting lengths, missing or extra bytes.
                `HeadError` for too many lines, another version than HTTP/1, or an unsupported transfer coding.
        """
        if head.startswith(_OF_CLIENTS) and len(head) <= _REMEMBERED_LEN:
            return _remembered(head)
        return _read(head)

    @property
    def path(self) -> str:
        """The path as sent (not percent-decoded), without query; in absolute form also without scheme and host."""
        return (self.resource or self.target).partition("?")[0]

    @property
    def resource(self) -> str:
        """The requested path and query, for any form of the target; `*` unchanged; "" if the target has no path."""
        target = self.target
        if target.startswith("/") or target == "*":
            return target
        _, scheme, rest = target.partition("://")
        return "/" + rest.partition("/")[2] if scheme else ""

    def encode(self) -> bytes:
        """Return the head in normal form."""
        lines = [f"{self.method} {self.resource} HTTP/{self.version}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def get(self, name: str) -> str:
        """Return a header's first value, or "" when it is absent; the name's case does not matter."""
        wanted = name.lower()
        for header, value in self.headers:
            if header == wanted:
                return value
        return ""

    def get_all(self, name: str) -> list[str]:
        """Return all values of a header in their order."""
        wanted = name.lower()
        return [value for header, value in self.headers if header == wanted]

    def tokens(self, name: str) -> list[str]:
        """Return the comma-separated parts of all values of a header."""
        return [part.strip(" \t") for value in self.get_all(name) for part in value.split(",")]

    @property
    def content_length(self) -> int:
        """The number of body bytes after the head; 0 if it has no Content-Length. Meaningless for a chunked body."""
        return int(self.get("Content-Length") or 0)

    @property
    def is_chunked(self) -> bool:
        """True if a chunked body follows."""
        return bool(self.get_all("Transfer-Encoding"))


def _read(head: bytes) -> RequestHead:
    lines = head.count(b"\n")
    if lines > MAX_LINES:
        raise HeadError(431, f"wanted an HTTP head of at most {MAX_LINES} lines, got {lines:,}")
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    event = _only_event(connection, head)
    if not isinstance(event, h11.Request):
        raise ProtocolError(f"wanted one HTTP request head, got {len(head):,} other bytes")
    version = event.http_version.decode("ascii")
    if not version.startswith("1."):
        status = 400 if event.method == b"PRI" else 505  # the Go server's answer to HTTP/2 without negotiation
        raise HeadError(status, f"wanted HTTP/1.0 or HTTP/1.1, got HTTP/{version}")
    version = "1.0" if version == "1.0" else "1.1"  # later versions can be answered with 1.1 (RFC 9110, 6.2)
    parsed = RequestHead(event.method.decode("ascii"), event.target.decode("latin-1"), version, _headers(event))
    if not _HOST.fullmatch(parsed.get("Host")):
        raise ProtocolError("wanted a host in the header Host, got letters that none may have")
    if _BAD_ESCAPE.search(parsed.path):
        raise ProtocolError("wanted two hex digits behind each % of the target's path")
    if parsed.is_chunked and parsed.get_all("Content-Length"):
        raise ProtocolError("wanted one length of the body, got Content-Length and Transfer-Encoding")
    if parsed.content_length > _LONGEST_BODY:
        raise ProtocolError("wanted a Content-Length of 63 bits")
    return parsed


_remembered = lru_cache(_REMEMBERED_HEADS)(_read)
"""Clients of one version send identical heads."""


@dataclass(frozen=True, slots=True)
class DerpUpgrade:
    """The stream becomes DERP at once. Answer, then send ServerKey, in one write."""

    fast_start: bool  # the client expects no HTTP answer
    ideal_node: str | None  # the region's first node, from a client that is not on it

    def answer(self, server_key: NodePublic) -> bytes:
        """Return the bytes before ServerKey: the 101 head, or nothing with fast start."""
        if self.fast_start:
            return b""
        return _switching(
            ("Upgrade", "DERP"),
            ("Connection", "Upgrade"),
            ("Derp-Version", str(PROTOCOL_VERSION)),
            ("Derp-Public-Key", server_key.hex()),
        )


@dataclass(frozen=True, slots=True)
class WebSocketUpgrade:
    """The stream becomes WebSocket, with DERP in its binary messages."""

    key: str  # Sec-WebSocket-Key as sent, checked
    offers_derp: bool  # else the client gets a closing frame, because no other subprotocol is supported

    def answer(self) -> bytes:
        """Return the 101 head; for a client that does not offer `derp` also a closing frame: close after it."""
        accept = base64.b64encode(hashlib.sha1(self.key.encode("ascii") + _WEBSOCKET_GUID).digest())  # noqa: S324  RFC 6455 requires SHA-1
        chosen = (("Sec-Websocket-Protocol", SUBPROTOCOL),) if self.offers_derp else ()
        head = _switching(
            ("Connection", "Upgrade"),
            ("Sec-Websocket-Accept", accept.decode("ascii")),
            *chosen,
            ("Upgrade", "websocket"),
        )
        return head if self.offers_derp else head + _close_frame(1008, f"wanted the subprotocol {SUBPROTOCOL}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An ordinary HTTP answer instead of an upgrade; the caller adds Date and Content-Length."""

    status: int
    body: str  # one line of text
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The answer's headers, except Date, Content-Length and the connection's own."""
        return (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"), *self.extra)


def decide(head: RequestHead) -> DerpUpgrade | WebSocketUpgrade | Refusal:
    """Return the answer to a request for `/derp`.

    Very old clients send `Upgrade: WebSocket` and mean DERP. So a request is a WebSocket only if it names the
    subprotocol. Method, version and the Connection header are ignored for DERP, and checked for WebSocket.
    """
    upgrade = head.get("Upgrade").lower()
    if upgrade not in ("derp", "websocket"):
        return Refusal(426, "DERP requires connection upgrade\n")
    if head.content_length or head.is_chunked:
        # A proxy in front of us would treat the next bytes as the body, and we would treat them as DERP.
        return Refusal(400, "an upgrade has no body\n")
    if upgrade == "websocket" and SUBPROTOCOL in head.get("Sec-WebSocket-Protocol"):
        return _decide_websocket(head)
    return DerpUpgrade(fast_start=head.get(FAST_START) == "1", ideal_node=head.get(IDEAL_NODE) or None)


def _decide_websocket(head: RequestHead) -> WebSocketUpgrade | Refusal:
    """Check the opening handshake (RFC 6455, section 4.2.1); any Origin is accepted, and no extension."""
    wants_upgrade = (("Connection", "Upgrade"), ("Upgrade", "websocket"))
    if head.version == "1.0" or "upgrade" not in (token.lower() for token in head.tokens("Connection")):
        return Refusal(426, "WebSocket wants HTTP/1.1 and Connection: Upgrade\n", wants_upgrade)
    if head.method != "GET":
        return Refusal(405, "WebSocket wants GET\n")
    if head.get("Sec-WebSocket-Version") != "13":
        return Refusal(400, "WebSocket version 13 is spoken here\n", (("Sec-Websocket-Version", "13"),))
    keys = head.get_all("Sec-WebSocket-Key")
    if len(keys) != 1 or not _is_websocket_key(keys[0]):
        return Refusal(400, "WebSocket wants one Sec-WebSocket-Key of 16 bytes in base64\n")
    return WebSocketUpgrade(keys[0], SUBPROTOCOL in head.tokens("Sec-WebSocket-Protocol"))


def _is_websocket_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _WEBSOCKET_KEY_LEN
    except (binascii.Error, ValueError):
        return False


def upgrade_request(
    host: str, *, path: str = "/derp", fast_start: bool = False, ideal_node: str | None = None
) -> bytes:
    """Build the head of the client's upgrade request.

    Args:
        host: The Host header: a name or address (IPv6 in brackets), with `:port` unless it is the scheme's default.
        path: The request's path.
        fast_start: Ask for no HTTP answer; only for a client that knows the server's key.
        ideal_node: The name of the region's first node if the request goes to another node, else None.

    Returns:
        The head, with its blank line.

    Raises:
        ValueError: An argument has characters that a head must not contain.

    Source: docs/protocol/protocol.md, Getting to the first frame.
    """
    headers = [("Host", host), ("Connection", "Upgrade"), ("Upgrade", "DERP")]
    if fast_start:
        headers.append((FAST_START, "1"))
    if ideal_node:
        headers.append((IDEAL_NODE, ideal_node))
    try:
        head = h11.Connection(h11.CLIENT).send(h11.Request(method="GET", target=path, headers=headers))
    except h11.LocalProtocolError as error:
        raise ValueError(f"host, path or node name does not fit into a request head: {error}") from error
    return head or b""


@dataclass(frozen=True, slots=True)
class UpgradeAnswer:
    """A server's answer to the upgrade request, status 101.

    Attributes:
        server_key: The server's key if the answer has it; the ServerKey frame that follows is what counts.
        protocol_version: The version if the answer has it.

    Source: docs/protocol/protocol.md, Getting to the first frame.
    """

    server_key: NodePublic | None
    protocol_version: int | None

    @classmethod
    def parse(cls, head: bytes) -> Self:
        """Parse one complete head.

        Args:
            head: The bytes from `HTTP/1.1` to the blank line, as `head_length` measures them.

        Raises:
            ProtocolError: Not HTTP, or a status other than 101.
        """
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", ""), ("Upgrade", "DERP")]))
        connection.send(h11.EndOfMessage())
        event = _only_event(connection, head)
        if not isinstance(event, h11.InformationalResponse | h11.Response):
            raise ProtocolError(f"wanted one HTTP response head, got {len(head):,} other bytes")
        if event.status_code != 101:  # noqa: PLR2004  an HTTP status
            raise ProtocolError(f"wanted status 101 for the upgrade to DERP, got {event.status_code}")
        headers = dict(_headers(event))
        key, version = headers.get("derp-public-key"), headers.get("derp-version", "")
        known_version = len(version) == 1 and version.isdecimal()
        return cls(NodePublic.from_hex(key) if key else None, int(version) if known_version else None)


def _only_event(connection: h11.Connection, head: bytes) -> object:
    if _CONTROL.search(head):
        raise ProtocolError(f"HTTP head of {len(head):,} bytes with control characters in it")
    try:
        connection.receive_data(head)
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        # h11 quotes the peer after a colon, and a head may carry secrets.
        message = f"HTTP head of {len(head):,} bytes: {str(error).partition(':')[0]}"
        raise HeadError(error.error_status_hint, message) from error
    surplus, _ = connection.trailing_data
    if surplus:
        raise ProtocolError(f"wanted one HTTP head, got {len(surplus):,} bytes after it")
    return event


def _headers(event: h11.Request | h11.InformationalResponse | h11.Response) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)


def _switching(*headers: tuple[str, str]) -> bytes:
    # Not built by h11, because these names must have the Go server's spelling.
    lines = [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(("HTTP/1.1 101 Switching Protocols", *lines, "", "")).encode("ascii")


def _close_frame(status: int, reason: str) -> bytes:
    payload = status.to_bytes(2, "big") + reason.encode("ascii")
    return bytes((0x88, len(payload))) + payload
