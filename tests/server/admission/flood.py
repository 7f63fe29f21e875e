"""Many logins at once at a relay whose slow controller is a separate process."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from derper.errors import NetworkError, ProtocolError
from derper.protocol import ClientInfo, FrameReader, LoginBox, NodePrivate, ServerKey
from derper.protocol.frames import FrameType, Health
from derper.protocol.login import LOGIN_LIMITS, NONCE_LEN, client_info_frame
from derper.protocol.reader import RawFrame
from derper.protocol.upgrade import UpgradeAnswer, upgrade_request

SECONDS: Final = 240.0
ADMITTED: Final = "admitted"
_CONTROLLER: Final = """
import asyncio, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
async def serve(stream, out):
    try:
        while head := await stream.readuntil(b"\\r\\n\\r\\n"):
            length = next(int(line[15:]) for line in head.splitlines() if line.lower().startswith(b"content-length:"))
            await stream.readexactly(length)
            await asyncio.sleep(float(sys.argv[1]))
            out.write(b'HTTP/1.1 200 OK\\r\\nContent-Length: 15\\r\\n\\r\\n{"Allow":false}')
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        out.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@contextmanager
def controller_that_refuses(after: float) -> Iterator[str]:
    """Run a controller that answers "no" after `after` seconds, to any number of requests at once; yield its URL."""
    process = subprocess.Popen([sys.executable, "-c", _CONTROLLER, str(after)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/verify"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def log_in_all(port: int, clients: int) -> Counter[str]:
    """Log in with this number of keys at once; count the results: admitted, or the reason of the rejection, if any."""
    gate = asyncio.Semaphore(256)  # simultaneous connects: a backlog is short
    async with asyncio.timeout(SECONDS):
        return Counter(await asyncio.gather(*(_log_in(port, gate) for _ in range(clients))))


async def _log_in(port: int, gate: asyncio.Semaphore) -> str:
    out: asyncio.StreamWriter | None = None
    try:
        async with gate:
            stream, out = await asyncio.open_connection("127.0.0.1", port)
            out.write(upgrade_request("derp.example.test"))
            UpgradeAnswer.parse(await stream.readuntil(b"\r\n\r\n"))
            frames = FrameReader(LOGIN_LIMITS)
            private = NodePrivate.from_entropy(os.urandom(32))
            box = LoginBox(private, ServerKey.decode(await _next(stream, frames)).key)
            out.write(client_info_frame(private.public(), ClientInfo(), box, os.urandom(NONCE_LEN)))
        answer = await _next(stream, frames)
        return Health.from_payload(answer.payload).problem if answer.type == FrameType.HEALTH else ADMITTED
    except (OSError, EOFError, ProtocolError, NetworkError) as error:
        return type(error).__name__
    finally:
        if out is not None:
            out.close()
            with suppress(OSError):
                await out.wait_closed()


async def _next(stream: asyncio.StreamReader, frames: FrameReader) -> RawFrame:
    while (frame := frames.next_frame()) is None:
        data = await stream.read(65_536)
        if not data:
            raise EOFError
        frames.feed(data)
    return frame
