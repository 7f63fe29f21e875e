"""Plain HTTP requests to a relay, over the client's own streams."""

from dataclasses import dataclass
from typing import Final

import h11

from derper.client.dial import connect_within
from derper.client.streams import Stream, TcpStream
from derper.client.target import Target
from derper.errors import NetworkError, ProtocolError
from derper.protocol.upgrade import head_length

_DIAL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer without its body."""

    status: int
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str:
        """Return a header's value; empty if it is absent."""
        return next((value for header, value in self.headers if header == name.lower()), "")


async def http_get(target: Target, path: str, *headers: tuple[str, str]) -> Answer:
    """Return the answer to a GET; its body is not read.

    Raises:
        NetworkError: The server is unreachable, or closed the connection.
        ProtocolError: The server does not speak HTTP.
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
    """Return an HTTP head.

    Raises:
        NetworkError: The stream ended before the head was complete.
        ProtocolError: The first 65,536 bytes contain no complete head.
    """
    data = b""
    while (length := head_length(data)) is None:
        came = await stream.read()
        if not came:
            raise NetworkError("it closed the connection instead of answering")
        data += came
    return data[:length]
