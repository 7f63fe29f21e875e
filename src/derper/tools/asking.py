"""Questions to a relay that are no DERP: STUN over UDP, and plain requests of HTTP over the client's own streams."""

import asyncio
import os
from dataclasses import dataclass
from typing import Final

import h11

from derper import log
from derper.client.dial import connect_within
from derper.client.streams import Stream, TcpStream
from derper.client.target import Target
from derper.errors import NetworkError, ProtocolError
from derper.protocol import stun
from derper.protocol.frames import Endpoint
from derper.protocol.upgrade import head_length

TRIES: Final = 3
_DIAL_SECONDS: Final = 5.0


async def ask_stun(address: str, port: int, seconds: float) -> Endpoint:
    """Ask an address from where it sees us; three times, as datagrams get lost.

    Raises:
        NetworkError: no answer in time, or the network refuses.
    """
    loop = asyncio.get_running_loop()
    try:
        transport, asking = await loop.create_datagram_endpoint(_Asking, remote_addr=(address, port))
    except OSError as error:
        raise NetworkError(f"cannot send to {address}: {error.strerror or error}") from error
    try:
        for _ in range(TRIES):
            transport.sendto(stun.request(asking.tx_id))
            done, _ = await asyncio.wait((asking.answered,), timeout=seconds / TRIES)
            if done:
                return asking.answered.result()
    finally:
        transport.close()
        asking.answered.cancel()
    raise NetworkError(f"no answer from {address} UDP port {port}")


class _Asking(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.tx_id = os.urandom(stun.TX_ID_LEN)
        self.answered: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _address: object) -> None:
        try:
            answer = stun.Response.parse(data)
        except ProtocolError:
            return  # not from a STUN server: as good as none
        if answer.tx_id == self.tx_id and not self.answered.done():
            self.answered.set_result(answer.seen)

    def error_received(self, error: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(NetworkError(log.in_one_line(error)))


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer without its body."""

    status: int
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str:
        """Give a header's value, or nothing."""
        return next((value for header, value in self.headers if header == name.lower()), "")


async def http_get(target: Target, path: str, *headers: tuple[str, str]) -> Answer:
    """Ask for a page; its body is not read.

    Raises:
        NetworkError: it cannot be reached, or hung up.
        ProtocolError: what answers does not speak HTTP.
    """
    connection = h11.Connection(h11.CLIENT)
    asked = [("Host", target.authority), ("Connection", "close"), *headers]
    request = connection.send(h11.Request(method="GET", target=path, headers=asked)) or b""
    connection.send(h11.EndOfMessage())
    stream = await TcpStream.open(target, None, await connect_within(target.node, _DIAL_SECONDS))
    try:
        await stream.write(request)
        connection.receive_data(await read_head(stream))
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise ProtocolError("wanted an HTTP answer, got something else") from error
    finally:
        await stream.close()
    if not isinstance(event, h11.Response):
        raise ProtocolError("wanted an HTTP answer, got something else")
    found = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
    return Answer(event.status_code, found)


async def read_head(stream: Stream) -> bytes:
    """Read an HTTP head.

    Raises:
        NetworkError: the stream ends before it.
        ProtocolError: there is none in the first 65,536 bytes.
    """
    data = b""
    while (length := head_length(data)) is None:
        came = await stream.read()
        if not came:
            raise NetworkError("it hung up instead of answering")
        data += came
    return data[:length]
