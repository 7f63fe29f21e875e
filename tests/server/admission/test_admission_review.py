"""Connected clients are checked again; an earlier answer replaces one that does not arrive."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Client, config_of, serving
from structlog.testing import capture_logs
from structlog.typing import EventDict
from verifier import (
    ALLOW,
    REFUSE,
    Question,
    at_a_socket,
    at_a_url,
    disconnect_reason,
    http,
    logged_event,
    stays,
    try_login,
)

from derper.protocol import NodePrivate
from derper.server.admission import review

ONE, OTHER = (NodePrivate(bytes([number] * 32)) for number in (7, 8))
NOT_FOUND = http(b"no match for IP:port\n", "404 Not Found")
BUSY = http(b"", "502 Bad Gateway")


@pytest.fixture(autouse=True)
def log() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


class ChangingAnswers:
    """Answers that change, and the keys that were asked about."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.asked: asyncio.Queue[Question] = asyncio.Queue()

    async def __call__(self, question: Question) -> bytes:
        self.asked.put_nowait(question)
        return self.answer

    async def asked_again(self, times: int = 2) -> None:
        """Return after this number of further requests."""
        while not self.asked.empty():
            self.asked.get_nowait()
        for _ in range(times):
            await asyncio.wait_for(self.asked.get(), 10)


async def test_a_connected_client_that_is_rejected_later_is_notified_and_disconnected(
    tmp_path: Path, log: list[EventDict]
) -> None:
    mood = ChangingAnswers(http(ALLOW))
    async with at_a_url(mood) as url:
        flags = ("-verify-client-url", url.url, "-verify-interval", "100ms")
        async with serving(config_of(tmp_path, *flags)) as server:
            client = await Client.log_in(server, private=ONE)
            mood.answer = http(REFUSE)
            assert await disconnect_reason(client) == (
                "this relay rejected this device: the relay's operator does not allow it"
            )
    said = await logged_event(log, "client no longer admitted")
    assert (said["key"], said["remote"]) == (ONE.public(), "127.0.0.1")


@pytest.mark.parametrize("fails_open", ["true", "false"])
async def test_no_answer_changes_nothing_for_connected_clients(tmp_path: Path, fails_open: str) -> None:
    mood = ChangingAnswers(http(ALLOW))
    async with at_a_url(mood) as url:
        flags = ("-verify-client-url", url.url, "-verify-interval=50ms", f"-verify-client-url-fail-open={fails_open}")
        async with serving(config_of(tmp_path, *flags)) as server:
            client = await Client.log_in(server)
            for no_answer in (BUSY, http(b"{"), b"", http(b"", "429 Too Many Requests")):
                mood.answer = no_answer
                await mood.asked_again()
                await stays(client)


async def test_a_daemon_that_is_starting_and_knows_no_peer_disconnects_no_client(tmp_path: Path) -> None:
    state = "Running"
    mood = ChangingAnswers(http(b"{}"))

    async def answer(question: Question) -> bytes:
        if "/status" in question.line:
            return http(b'{"BackendState":"%s"}' % state.encode())
        return await mood(question)

    socket = tmp_path / "tailscaled.sock"
    async with at_a_socket(socket, answer):
        flags = ("-verify-clients", "-socket", str(socket), "-verify-interval=50ms")
        async with serving(config_of(tmp_path, *flags)) as server:
            client = await Client.log_in(server)
            state, mood.answer = "Starting", NOT_FOUND
            await mood.asked_again()
            await stays(client)
            assert await try_login(server, OTHER) is not None
            state = "Running"
            assert "tailnet does not know it" in await disconnect_reason(client)


async def test_at_most_16_clients_are_checked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert review.IN_FLIGHT == 16
    monkeypatch.setattr(review, "IN_FLIGHT", 2)
    thinks, asked, most = asyncio.Event(), 0, 0
    thinks.set()

    async def answer(_question: Question) -> bytes:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        if asked == 2 and not thinks.is_set():
            both.set()
        await thinks.wait()
        asked -= 1
        return http(ALLOW)

    both = asyncio.Event()
    async with at_a_url(answer) as url:
        flags = ("-verify-client-url", url.url, "-verify-interval=100ms")
        async with serving(config_of(tmp_path, *flags)) as server:
            clients = [await Client.log_in(server) for _ in range(6)]
            thinks.clear()
            asked, most = 0, 0
            await asyncio.wait_for(both.wait(), 10)
            for client in clients:
                await stays(client)
            assert most == 2
            thinks.set()


async def test_the_last_yes_replaces_a_missing_answer_but_not_after_a_no(tmp_path: Path) -> None:
    mood = ChangingAnswers(http(ALLOW))
    async with at_a_url(mood) as url:
        flags = ("-verify-client-url", url.url, "-verify-client-url-fail-open=false", "-verify-cache=1h")
        async with serving(config_of(tmp_path, *flags)) as server:
            assert await try_login(server, ONE) is None
            mood.answer = b""
            assert await try_login(server, ONE) is None
            assert await try_login(server, OTHER) is not None
            mood.answer = http(REFUSE)
            assert await try_login(server, ONE) is not None
            mood.answer = b""
            assert await try_login(server, ONE) is not None


async def test_a_yes_that_is_too_old_replaces_no_answer(tmp_path: Path) -> None:
    mood = ChangingAnswers(http(ALLOW))
    async with at_a_url(mood) as url:
        flags = ("-verify-client-url", url.url, "-verify-client-url-fail-open=false", "-verify-cache=1ns")
        async with serving(config_of(tmp_path, *flags)) as server:
            assert await try_login(server, ONE) is None
            mood.answer = b""
            assert await try_login(server, ONE) is not None


async def test_earlier_answers_replace_those_of_a_restarting_daemon(tmp_path: Path) -> None:
    socket = tmp_path / "tailscaled.sock"
    flags = ("-verify-clients", "-socket", str(socket), "-verify-cache=1h")
    async with serving(config_of(tmp_path, *flags)) as server:
        async with at_a_socket(socket, ChangingAnswers(http(b"{}"))):
            assert await try_login(server, ONE) is None
        socket.unlink(missing_ok=True)
        assert await try_login(server, ONE) is None
        assert await try_login(server, OTHER) is not None
