"""`derper cat`: netcat between two keys. Input is sent to the peer as packets, and the peer's packets are the output.

    derper cat derp.example.com                      prints its key, and waits for the first sender
    derper cat derp.example.com nodekey:…            sends to that key

Packets, not a stream: the relay may drop some. An empty packet marks the end of one side's data. The tool ends after
both sides' ends, or when the peer is gone.
"""

import argparse
import asyncio
import base64
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Sequence

from derper.cli.tools import common
from derper.client import (
    Connected,
    DerpClient,
    Disconnected,
    Health,
    Message,
    NodePublic,
    Options,
    PeerGone,
    RecvPacket,
)
from derper.errors import ConfigError, NetworkError, ProtocolError
from derper.tools import relays

_LATE_SECONDS = 0.5
_CHUNK = 1_200  # bytes of input per packet, which fits any path


def main(words: Sequence[str]) -> int:
    """Run with the arguments after the tool's name."""
    parser = common.parser("cat", "Talk to another key through a relay, as netcat does.")
    parser.add_argument("relay", metavar="HOST|MAP", help="name[:port], address, URL; or a DERP map, a file or a URL")
    parser.add_argument(
        "peer",
        nargs="?",
        metavar="KEY",
        help="the other's key, nodekey:…; default: the first client that sends",
    )
    parser.add_argument("--region", default="", help="of a map, this region, by number or code")
    parser.add_argument(
        "--pin", default="", metavar="CERTNAME", help="for a host, the map's CertName: sha256-raw:… or a name"
    )
    parser.add_argument("--key", metavar="FILE", help="come with this key file instead of a new key")
    parser.add_argument("-w", "--wait", type=float, metavar="SECONDS", help="fail when nothing comes for so long")
    parser.add_argument("--websocket", action="store_true", help="speak through a WebSocket")
    return common.finish("cat", _run(parser.parse_intermixed_args(words)))


async def _run(asked: argparse.Namespace) -> int:
    key = common.key_from(asked.key) if asked.key else None
    (_, target), *_ = await relays.targets(asked.relay, region=asked.region, cert_name=asked.pin)
    options = Options(websocket=asked.websocket)
    async with DerpClient(target, key, options) as client:
        return await _Session(client, _peer(asked.peer), asked.wait, as_json=asked.json).run()


def _peer(text: str | None) -> NodePublic | None:
    try:
        return NodePublic.from_text(text) if text else None
    except ProtocolError as error:
        raise ConfigError(f"{text} is no key ({error}); the other side prints its key when it starts") from error


class _Session:
    """Both directions."""

    def __init__(self, client: DerpClient, peer: NodePublic | None, patience: float | None, *, as_json: bool) -> None:
        self._client = client
        self._patience = patience
        self._as_json = as_json
        self._peer: asyncio.Future[NodePublic] = asyncio.get_running_loop().create_future()
        if peer is not None:
            self._peer.set_result(peer)

    async def run(self) -> int:
        speaking = asyncio.create_task(self._send_input())
        try:
            is_gone = await self._print_packets()
            if not is_gone:
                await speaking
        finally:
            speaking.cancel()
            self._peer.cancel()
        return 0

    async def _send_input(self) -> None:
        """Send standard input, then the end mark."""
        peer = await self._peer
        async for data in _standard_input():
            await self._client.send(peer, data)
        await self._client.send(peer, b"")

    async def _print_packets(self) -> bool:
        """Print the peer's packets until its end mark; return whether the peer is gone."""
        is_gone = False
        while True:
            # PeerGone may overtake the peer's last packets.
            message = await self._next(_LATE_SECONDS if is_gone else self._patience)
            if message is None and not is_gone:
                raise NetworkError(f"nothing came for {self._patience:g} s")
            match message:
                case None:
                    return True
                case Connected():
                    self._report("connected", f"we are {self._client.key}", key=str(self._client.key))
                case Disconnected(reason, seconds):
                    self._report("disconnected", f"{reason}; trying again in {seconds:.1f} s", reason=reason)
                case Health(problem) if problem:
                    self._report("health", f"the relay says: {problem}", problem=problem)
                case RecvPacket(source, packet) if self._is_from_peer(source):
                    if not packet:
                        self._report("end", "")
                        return False
                    self._show(source, packet)
                case PeerGone(peer) if self._peer.done() and peer == self._peer.result():
                    self._report("gone", "the peer is gone", key=str(peer))
                    is_gone = True

    async def _next(self, patience: float | None) -> Message | None:
        try:
            async with asyncio.timeout(patience):
                return await self._client.receive()
        except TimeoutError:
            return None

    def _is_from_peer(self, source: NodePublic) -> bool:
        if not self._peer.done():
            self._peer.set_result(source)
            self._report("peer", f"{source} speaks", key=str(source))
        return source == self._peer.result()

    def _show(self, source: NodePublic, packet: bytes) -> None:
        if self._as_json:
            data = base64.b64encode(packet).decode("ascii")
            sys.stdout.write(json.dumps({"event": "packet", "from": str(source), "data": data}) + "\n")
        else:
            sys.stdout.buffer.write(packet)
        sys.stdout.flush()

    def _report(self, event: str, text: str, **more: str) -> None:
        if self._as_json:
            sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
            sys.stdout.flush()
        elif text:
            common.print_remark(text)


async def _standard_input() -> AsyncIterator[bytes]:
    """Yield input without blocking the loop; a regular file, which epoll cannot watch, is read in a thread."""
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (sys.stdin.isatty() or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        while data := await asyncio.to_thread(os.read, sys.stdin.fileno(), _CHUNK):
            yield data
        return
    pipe = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(pipe), sys.stdin)
    while data := await pipe.read(_CHUNK):
        yield data
