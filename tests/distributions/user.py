"""A program of a user of the library, as a type checker sees it: every kind of name that it may use has a type."""

import ssl
import sys
from typing import assert_type

from derper.client import (
    Connected,
    DerpClient,
    DerperError,
    Disconnected,
    Health,
    MeshKey,
    NetworkError,
    NodePrivate,
    NodePublic,
    Options,
    PeerPresent,
    RecvPacket,
    ServerInfo,
    Target,
)
from derper.protocol import ClientSession, FrameReader, RawFrame, SendPacket, decode_from_server


def show(*values: object) -> None:
    """Show values to the program's user."""
    sys.stdout.write(f"{values}\n")


async def talk(url: str, friend: NodePublic) -> None:
    """Use the client as docs/client.md shows it."""
    options = Options(mesh_key=MeshKey.from_text("cd" * 32), tls=ssl.create_default_context())
    try:
        async with DerpClient(Target.of_url(url), NodePrivate(bytes(31) + b"\1"), options) as client:
            assert_type(await client.send(friend, b"hello"), bool)
            assert_type(await client.packet(), RecvPacket)
            async for message in client:
                match message:
                    case RecvPacket(source, content):
                        assert_type(source, NodePublic)
                        packet: bytes = content
                        show(source, packet)
                    case Connected(server_info=info):
                        assert_type(info, ServerInfo)
                    case Disconnected(reason, seconds):
                        show(reason, seconds + 1)
                    case Health(problem):
                        show(problem.upper())
                    case PeerPresent(endpoint=endpoint) if endpoint:
                        show(endpoint.ip, endpoint.port)
    except NetworkError as error:
        show(error)
    except DerperError:
        raise


def pump(session: ClientSession, frames: FrameReader, data: bytes, to: NodePublic) -> bytes:
    """Use the protocol without I/O."""
    session.feed(data)
    frames.feed(data)
    while (frame := frames.next_frame()) is not None:
        assert_type(frame, RawFrame)
        show(decode_from_server(frame))
    return session.data_to_send() + SendPacket(to, b"hello").encode()
