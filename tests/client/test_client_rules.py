"""The client's rules for a relay that restarts, sets limits, is silent or breaks the protocol."""

import asyncio
import os
from typing import Any, cast

import pytest
from fakerelay import Guest, fake_relay, raw_server
from waysin import SECONDS, expect

from derper.client import (
    Connected,
    DerpClient,
    Disconnected,
    Health,
    NodePrivate,
    Options,
    Pong,
    Restarting,
    ServerInfo,
    client,
    connection,
)
from derper.client.bucket import TokenBucket
from derper.client.target import Target
from derper.errors import ConfigError, DerperError, NetworkError, ProtocolError
from derper.protocol.frames import NotePreferred, Ping, SendPacket, WatchConns
from derper.protocol.login import ClientInfo
from derper.protocol.reader import frame_bytes

SOMEBODY = NodePrivate.from_entropy(bytes(32)).public()


async def stay(guest: Guest) -> None:
    await guest.stream.read()


@pytest.mark.parametrize("given", [1_000, 65_573])
def test_a_full_bucket_accepts_a_packet_with_its_37_bytes_of_header_and_key(given: int) -> None:
    assert TokenBucket(10, given, 0.0).take(given - 37, 0.0)
    assert not TokenBucket(10, given, 0.0).take(given - 36, 0.0)


def test_a_bucket_fills_over_time_up_to_its_burst() -> None:
    bucket = TokenBucket(100, 137, 0.0)
    assert bucket.take(100, 0.0)
    assert not bucket.take(100, 1.36)
    assert bucket.take(100, 1.38)
    assert [bucket.take(0, 1_000.0) for _ in range(4)] == [True, True, True, False]


async def test_packets_over_the_announced_limit_are_dropped_and_counted_until_it_is_lifted() -> None:
    came = []

    async def play(guest: Guest) -> None:
        came.append(await guest.next())
        guest.inform(ServerInfo())
        came.append(await guest.next())
        await guest.hang_up()

    info = ServerInfo(token_bucket_bytes_per_second=1, token_bucket_bytes_burst=1_037)
    async with asyncio.timeout(SECONDS), fake_relay(play, info=info) as url, DerpClient(url) as alice:
        assert not await alice.send(SOMEBODY, bytes(1_001))
        assert await alice.send(SOMEBODY, bytes(1_000))
        assert not await alice.send(SOMEBODY, b"")
        assert (alice.counts.sent, alice.counts.over_limit) == (1, 2)
        assert await expect(alice, ServerInfo) == ServerInfo()
        assert await alice.send(SOMEBODY, bytes(2_000))
        while isinstance(await alice.receive(), ServerInfo | Connected):
            pass  # until the client closes
    assert came == [SendPacket(SOMEBODY, bytes(1_000)), SendPacket(SOMEBODY, bytes(2_000))]


async def test_a_client_waits_for_a_restart_as_the_relay_requests() -> None:
    async def restart(guest: Guest) -> None:
        guest.out.write(Restarting(300, 5_000).encode())
        await guest.hang_up()

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(SECONDS), fake_relay(restart, stay) as url, DerpClient(url) as alice:
        await expect(alice, Connected)
        assert await expect(alice, Restarting) == Restarting(300, 5_000)
        lost = await expect(alice, Disconnected)
        assert lost.retry_seconds == 0.3
        began = loop.time()
        await expect(alice, Connected)
        assert 0.25 < loop.time() - began < 2


async def test_a_restarting_relay_is_retried_for_the_time_in_its_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "RESTART_PAUSE", 0.01)
    tries = 0

    async def restart(guest: Guest) -> None:
        guest.out.write(Restarting(0, 600_000).encode())
        await guest.hang_up()

    async with asyncio.timeout(SECONDS), fake_relay(restart, stay) as url, DerpClient(url) as alice:
        opened = connection.Connection.open

        async def not_yet(*args: object, **more: object) -> connection.Connection:
            nonlocal tries
            tries += 1
            if tries < 20:
                raise NetworkError("it is not back")
            return await opened(*args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(connection.Connection, "open", not_yet)
        await expect(alice, Restarting)
        assert (await expect(alice, Disconnected)).retry_seconds == 0
        await expect(alice, Connected)  # and no other message before: pauses that grow would exceed the test's time
        assert tries == 20


async def test_a_relay_cannot_delay_the_reconnect_by_weeks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_RESTART", 0.1)

    async def restart(guest: Guest) -> None:
        guest.out.write(Restarting(2**32 - 1, 2**32 - 1).encode())
        await guest.hang_up()

    async with asyncio.timeout(SECONDS), fake_relay(restart, stay) as url, DerpClient(url) as alice:
        await expect(alice, Restarting)
        assert (await expect(alice, Disconnected)).retry_seconds == 0.1
        await expect(alice, Connected)


async def test_the_pauses_between_attempts_grow_while_connections_end_soon_after_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    async with asyncio.timeout(SECONDS), fake_relay(Guest.hang_up) as url, DerpClient(url) as alice:
        pauses: list[float] = []
        while len(pauses) < 6:
            if isinstance(message := await alice.receive(), Disconnected):
                pauses.append(message.retry_seconds)
        assert all(0.005 * 2**n <= pause <= 0.01 * 2**n for n, pause in enumerate(pauses))


async def test_a_silent_relay_is_given_up_and_one_that_pings_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SILENCE_SECONDS", 0.3)
    pongs = []

    async def ping(guest: Guest) -> None:
        for number in range(5):
            await asyncio.sleep(0.1)
            guest.out.write(Ping(number.to_bytes(8, "big")).encode())
            pongs.append((await guest.raw()).payload)
        await stay(guest)

    async with (
        asyncio.timeout(SECONDS),
        fake_relay(ping) as url,
        DerpClient(url, None, Options(reconnect=False)) as alice,
    ):
        await expect(alice, Connected)
        with pytest.raises(NetworkError, match=r"sent nothing for 0\.3 s"):
            await alice.receive()
    assert pongs == [number.to_bytes(8, "big") for number in range(5)]


async def test_home_and_watch_are_sent_again_after_a_reconnect() -> None:
    said: list[object] = []

    async def listen(guest: Guest) -> None:
        said.extend([await guest.next(), (await guest.raw()).type])
        await guest.hang_up()

    async with asyncio.timeout(SECONDS), fake_relay(listen, listen, stay) as url, DerpClient(url) as alice:
        await alice.note_preferred(True)
        await alice.watch()
        for _ in range(2):
            while not isinstance(await alice.receive(), Disconnected):
                pass
    assert said == [NotePreferred(True), WatchConns.TYPE] * 2


async def test_health_and_unexpected_pongs_are_messages() -> None:
    async def tell(guest: Guest) -> None:
        guest.out.write(Health("too many twins").encode() + Pong(b"unasked!").encode() + Health("").encode())
        await stay(guest)

    async with asyncio.timeout(SECONDS), fake_relay(tell) as url, DerpClient(url) as alice:
        await expect(alice, Connected)
        assert [await alice.receive() for _ in range(3)] == [Health("too many twins"), Pong(b"unasked!"), Health("")]


async def test_a_ping_without_an_answer_is_an_error_after_the_timeout() -> None:
    async with asyncio.timeout(SECONDS), fake_relay(stay) as url, DerpClient(url) as alice:
        with pytest.raises(NetworkError, match=r"no pong within 0\.05 s"):
            await alice.ping(0.05)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (b"", NetworkError, "closed the connection during login"),
        (b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", ProtocolError, "got 426"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ProtocolError, "got 200"),
        (b"220 mail.example.com ESMTP\r\n\r\n", ProtocolError, "HTTP head"),
        (b"x" * 70_000, ProtocolError, "no blank line"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + bytes(40), ProtocolError, "frame type 0x00"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + frame_bytes(1, bytes(40)), ProtocolError, "magic"),
    ],
)
async def test_a_server_without_derp_is_an_error_with_the_reason(
    answer: bytes, kind: type[DerperError], says: str
) -> None:
    async with asyncio.timeout(SECONDS), raw_server(answer) as url:
        with pytest.raises(kind, match=says):
            await DerpClient(url).connect()


@pytest.mark.parametrize("websocket", [False, True])
async def test_a_relay_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, websocket: bool) -> None:  # noqa: FBT001
    monkeypatch.setattr(connection, "LOGIN_SECONDS", 0.2)
    monkeypatch.setattr(client, "DIAL_SECONDS", 0.2)
    async with asyncio.timeout(SECONDS), raw_server(b"", hang_up=False) as url:
        with pytest.raises(NetworkError, match="did not finish"):
            await DerpClient(url, None, Options(websocket=websocket)).connect()


async def test_a_relay_that_breaks_the_protocol_is_disconnected_and_retried() -> None:
    async def break_it(guest: Guest) -> None:
        guest.out.write(b"\x05\xff\xff\xff\xff")
        await stay(guest)

    async with asyncio.timeout(SECONDS), fake_relay(break_it, stay) as url, DerpClient(url) as alice:
        await expect(alice, Connected)
        assert "4,294,967,295 bytes" in (await expect(alice, Disconnected)).reason
        await expect(alice, Connected)


async def test_a_client_that_does_not_receive_blocks_the_relay_and_uses_bounded_memory() -> None:
    sent = 0

    async def flood(guest: Guest) -> None:
        nonlocal sent
        frame = frame_bytes(5, SOMEBODY.raw + bytes(60_000))
        while True:
            guest.out.write(frame)
            await asyncio.wait_for(guest.out.drain(), 0.5)
            sent += len(frame)

    async with asyncio.timeout(SECONDS), fake_relay(flood) as url, DerpClient(url):
        was = -1
        while was != sent:
            was = sent
            await asyncio.sleep(0.1)
        assert sent < 64 * 60_037 + 20_000_000  # the kernel's buffers on both sides


async def test_it_connects_once() -> None:
    async with asyncio.timeout(SECONDS), fake_relay(stay) as url, DerpClient(url) as alice:
        with pytest.raises(RuntimeError, match="once"):
            await alice.connect()
        await alice.close()
        await alice.close()
        with pytest.raises(NetworkError, match="is closed"):
            await alice.receive()


async def test_a_packet_that_is_too_long_is_the_callers_error() -> None:
    async with asyncio.timeout(SECONDS), fake_relay(stay) as url, DerpClient(url) as alice:
        with pytest.raises(ValueError, match="65,536"):
            await alice.send(SOMEBODY, bytes(65_537))


@pytest.mark.parametrize(
    ("url", "shown", "path"),
    [
        ("https://derp.example.com", "https://derp.example.com", "/derp"),
        ("https://derp.example.com:443/", "https://derp.example.com", "/derp"),
        ("http://derp.example.com/derp", "http://derp.example.com", "/derp"),
        ("https://[2001:db8::1]:8443/other/derp", "https://[2001:db8::1]:8443", "/other/derp"),
        ("http://192.0.2.1:3340", "http://192.0.2.1:3340", "/derp"),
    ],
)
def test_a_url_names_a_relay(url: str, shown: str, path: str) -> None:
    target = Target.of_url(url)
    assert (str(target), target.path) == (shown, path)
    assert target.websocket_url == shown.replace("http", "ws", 1) + path


@pytest.mark.parametrize(
    "url",
    ["", "derp.example.com", "ftp://derp.example.com", "https://", "https://x:99999", "https://a@b", "https://[x]"],
)
def test_an_invalid_url_is_an_error_of_one_sentence(url: str) -> None:
    with pytest.raises(ConfigError, match="write it as https://name"):
        DerpClient(url)


def test_texts_of_a_client_have_no_secrets() -> None:
    secret = NodePrivate.from_entropy(os.urandom(32))
    assert secret.raw.hex() not in repr(DerpClient("http://x", secret)) + repr(Options())


async def test_a_value_of_another_type_is_a_type_error_that_names_both() -> None:
    alice: Any = DerpClient("http://127.0.0.1:1")
    text = str(SOMEBODY)
    hint = "want a NodePublic, got str; NodePublic.from_text parses its text form"
    with pytest.raises(TypeError, match=f"^destination: {hint}$"):
        await alice.send(text, b"packet")
    with pytest.raises(TypeError, match=r"^destination: want a NodePublic, got bytes$"):
        await alice.send(SOMEBODY.raw, b"packet")
    with pytest.raises(TypeError, match=r"^a packet: want bytes, got str$"):
        await alice.send(SOMEBODY, "packet")
    with pytest.raises(TypeError, match=f"^source: {hint}$"):
        await alice.forward(text, SOMEBODY, b"packet")
    with pytest.raises(TypeError, match=f"^peer: {hint}$"):
        await alice.close_peer(text)
    with pytest.raises(TypeError, match=r"^private_key: want a NodePrivate, got str; NodePrivate.from_text"):
        DerpClient("http://127.0.0.1:1", cast("Any", "privkey:" + "1" * 64))
    with pytest.raises(TypeError, match=r"^mesh_key: want a MeshKey, got str; MeshKey.from_text"):
        ClientInfo(cast("Any", "1" * 64)).to_json()
