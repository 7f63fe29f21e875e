"""A client's side of one connection: bytes in, messages and bytes out.

upgrade's answer → ServerKey → (ClientInfo out) → ServerInfo → every frame that a server may send

With fast start there is no answer. If the server's key is known beforehand, ClientInfo does not wait for ServerKey. The
caller sends `data_to_send` after every call, which includes the answers to pings. An error is final. See
docs/protocol/protocol.md, Getting to the first frame and Login.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from derper.errors import ProtocolError
from derper.protocol.decode import SERVER_LIMITS, decode_from_server
from derper.protocol.frames import (
    FrameType,
    Health,
    KeepAlive,
    PeerGone,
    PeerPresent,
    Ping,
    Pong,
    RecvPacket,
    Restarting,
)
from derper.protocol.login import LOGIN_LIMITS, LoginBox, ServerInfo, ServerKey, client_info_frame, open_server_info
from derper.protocol.reader import FrameReader, RawFrame
from derper.protocol.upgrade import UpgradeAnswer, head_length

if TYPE_CHECKING:
    from derper.protocol.keys import NodePrivate, NodePublic
    from derper.protocol.login import ClientInfo


Said = ServerInfo | RecvPacket | PeerGone | PeerPresent | Pong | Health | Restarting
"""Everything that `ClientSession.next_message` returns."""


class _State(enum.Enum):
    ANSWER = enum.auto()  # waits for the head of the upgrade's answer
    KEY = enum.auto()  # waits for ServerKey
    INFO = enum.auto()  # waits for ServerInfo
    IN = enum.auto()


class ClientSession:
    """A client's half of one connection, without I/O.

    Pass received bytes to `feed`, then call `next_message` until it returns None. Send `data_to_send` after each call.
    An error is final.

    Args:
        private: The client's key.
        info: The client's announcement.
        nonce: 24 random bytes that were never used with this key.
        server_key: The server's key if it is known beforehand, as with fast start; another key ends the session.
        awaits_answer: Whether an HTTP head comes first: True, but for fast start and WebSocket.

    Attributes:
        key: The client's public key.
        server_key: The server's public key; None until it is known.
        server_info: The latest ServerInfo; None until the login is complete.

    Source: docs/protocol/protocol.md, Getting to the first frame and Login.
    """

    key: NodePublic
    server_key: NodePublic | None
    server_info: ServerInfo | None

    def __init__(
        self,
        private: NodePrivate,
        info: ClientInfo,
        nonce: bytes,
        *,
        server_key: NodePublic | None = None,
        awaits_answer: bool = True,
    ) -> None:
        self.key = private.public()
        self.server_key = server_key
        self.server_info = None
        self._private = private
        self._info = info
        self._nonce = nonce
        self._state = _State.ANSWER if awaits_answer else _State.KEY
        self._head = b""
        self._frames = FrameReader(LOGIN_LIMITS)
        self._out = bytearray()
        self._box: LoginBox | None = None
        if server_key is not None:
            self._send_client_info(server_key)

    def feed(self, data: bytes) -> None:
        """Add bytes from the stream.

        Args:
            data: Bytes in portions of any length.

        Raises:
            ProtocolError: The HTTP head is invalid or rejects the upgrade.
        """
        if self._state is not _State.ANSWER:
            self._frames.feed(data)
            return
        self._head += data
        length = head_length(self._head)
        if length is not None:
            UpgradeAnswer.parse(self._head[:length])
            self._state = _State.KEY
            self._frames.feed(self._head[length:])
            self._head = b""

    def next_message(self) -> Said | None:
        """Return the next message of the server.

        The first is the ServerInfo that ends the login, or the Health of a server that rejects it. Keep-alives, pings
        and unknown frames are handled here and not returned.

        Returns:
            The message, or None until more bytes come.

        Raises:
            ProtocolError: The server broke the protocol.
        """
        while (frame := self._frames.next_frame()) is not None:
            message = self._handle(frame)
            if message is not None:
                return message
        return None

    def data_to_send(self) -> bytes:
        """Return the bytes to send now, and forget them."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def _handle(self, frame: RawFrame) -> Said | None:
        match self._state:
            case _State.KEY:
                self._meet(ServerKey.decode(frame).key)
                return None
            case _State.INFO:
                if frame.type == FrameType.HEALTH:
                    return Health.from_payload(frame.payload)
                return self._informed(frame)
            case _:
                if frame.type == FrameType.SERVER_INFO:
                    return self._informed(frame)
                message = decode_from_server(frame)
                if isinstance(message, Ping):
                    self._out += message.answer().encode()
                return None if isinstance(message, Ping | KeepAlive) else message

    def _meet(self, key: NodePublic) -> None:
        if self.server_key is None:
            self._send_client_info(key)
        elif key != self.server_key:
            raise ProtocolError(f"wanted the server's key {self.server_key}, got {key}")
        self._state = _State.INFO

    def _send_client_info(self, server_key: NodePublic) -> None:
        self.server_key = server_key
        self._box = LoginBox(self._private, server_key)
        self._out += client_info_frame(self.key, self._info, self._box, self._nonce)

    def _informed(self, frame: RawFrame) -> ServerInfo:
        if self._box is None:
            raise AssertionError("no ServerInfo is looked at before ServerKey")
        self.server_info = open_server_info(frame, self._box)
        self._frames.allow(SERVER_LIMITS)
        self._state = _State.IN
        return self.server_info
