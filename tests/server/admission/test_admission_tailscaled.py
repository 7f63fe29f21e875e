"""A tailscaled on this machine decides which clients may connect (docs/protocol/admission.md, 1)."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from live import SECONDS, Server, config_of, serving
from structlog.testing import capture_logs
from structlog.typing import EventDict
from verifier import Question, Verifier, always, at_a_socket, http, logged_event, never, try_login

from derper.protocol import NodePrivate
from derper.server.admission import tailscaled

PRIVATE = NodePrivate(bytes([7] * 32))
SELF = NodePrivate(bytes([9] * 32)).public()
NOT_FOUND = http(b"no match for IP:port\n", "404 Not Found")


@pytest.fixture(autouse=True)
def log() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


@asynccontextmanager
async def asking(folder: Path, *sockets: Path) -> AsyncIterator[Server]:
    flags = [word for path in sockets for word in ("-socket", str(path))]
    async with serving(config_of(folder, "-verify-clients", *flags), shards=1) as server:
        yield server


@asynccontextmanager
async def judged(folder: Path, answer: bytes) -> AsyncIterator[tuple[Server, Verifier]]:
    socket = folder / "tailscaled.sock"
    async with at_a_socket(socket, always(answer)) as verifier, asking(folder, socket) as server:
        yield server, verifier


def rejection(log: list[EventDict]) -> str:
    (reason,) = [entry["reason"] for entry in log if entry["event"] == "client rejected"]
    return str(reason)


async def test_an_unreachable_daemon_is_a_warning_at_start(tmp_path: Path, log: list[EventDict]) -> None:
    missing = tmp_path / "none.sock"
    said = (
        f"-verify-clients: the tailscaled at {missing} is not reachable (No such file or directory) "
        "and admits no client; start it, or name its socket with -socket"
    )
    reachable = tmp_path / "tailscaled.sock"
    async with at_a_socket(reachable, never()) as verifier, asking(tmp_path, missing, reachable):
        await logged_event(log, said)
        assert [line["event"] for line in log if line["log_level"] == "warning"] == [said]
        assert verifier.asked == []


async def test_a_dead_socket_is_a_warning_at_start(tmp_path: Path, log: list[EventDict]) -> None:
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(dead))
    async with asking(tmp_path, dead):
        async with asyncio.timeout(SECONDS):
            while not [line for line in log if line["log_level"] == "warning"]:  # noqa: ASYNC110  only the log tells
                await asyncio.sleep(0.01)
        (warning,) = [line["event"] for line in log if line["log_level"] == "warning"]
        assert f"{dead} is not reachable (Connection refused)" in warning


async def test_the_request_equals_that_of_the_daemons_own_clients(tmp_path: Path) -> None:
    async with judged(tmp_path, http(b"{}")) as (server, verifier):
        assert await try_login(server, PRIVATE) is None
        (question,) = verifier.asked
        assert question.line == f"GET /localapi/v0/whois?addr=nodekey%3A{PRIVATE.public().hex()} HTTP/1.1"
        assert question.headers["host"] == "local-tailscaled.sock"
        assert question.headers["tailscale-cap"] == "148"


async def test_a_client_unknown_to_the_daemon_is_rejected_with_that_reason(
    tmp_path: Path, log: list[EventDict]
) -> None:
    async with judged(tmp_path, NOT_FOUND) as (server, verifier):
        told = await try_login(server, PRIVATE)
        assert told == "this relay rejected this device: the relay's tailnet does not know it"
        assert len(verifier.asked) == 1
    assert rejection(log) == f"peer {PRIVATE.public()} not authorized (not found in local tailscaled)"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http(b"invalid 'addr' parameter\n", "400 Bad Request"),
         r"tailscaled version is too old \(out of sync with derper\)$"),
        (http(b"whois access denied\n", "403 Forbidden"),
         "failed to query local tailscaled status: Access denied: whois access denied"),
        (http(b'{"error": "no state yet"}', "500 Internal Server Error"),
         "failed to query local tailscaled status: no state yet"),
        (http(b"bad\n", "502 Bad Gateway"), "failed to query local tailscaled status: 502 Bad Gateway: bad"),
        (http(b"[]"), "failed to query local tailscaled status: .*cannot be read"),
        (http(b"{} {}"), "failed to query local tailscaled status: .*cannot be read"),
        (http(b"{", length=9), "failed to query local tailscaled status: "),
        (b"HTTP/1.1 what?\r\n\r\n", "failed to query local tailscaled status: "),
        (http(b"{" + b" " * (1 << 20) + b"}"), "failed to query local tailscaled status: .*more than 1,048,576 bytes"),
    ],
    ids=["too-old", "denied", "error-in-json", "other-status", "array", "two-values", "cut", "no-http", "too-long"],
)  # fmt: skip
async def test_any_other_answer_rejects_with_its_cause(
    tmp_path: Path, log: list[EventDict], monkeypatch: pytest.MonkeyPatch, answer: bytes, reason: str
) -> None:
    monkeypatch.setattr(tailscaled, "SECONDS", 0.5)  # for the answer that is cut
    async with judged(tmp_path, answer) as (server, _):
        assert await try_login(server) is not None
    assert re.match(reason, rejection(log))


async def test_a_daemon_that_is_not_running_rejects(tmp_path: Path, log: list[EventDict]) -> None:
    async with asking(tmp_path, tmp_path / "nobody.sock") as server:
        assert await try_login(server) is not None
    assert "nobody.sock" in rejection(log)


async def test_a_daemon_that_hangs_rejects_after_the_timeout(
    tmp_path: Path, log: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailscaled, "SECONDS", 0.2)
    socket = tmp_path / "tailscaled.sock"
    async with at_a_socket(socket, never()), asking(tmp_path, socket) as server:
        assert await try_login(server) is not None
    assert "did not answer" in rejection(log)


async def test_one_of_several_daemons_has_to_know_the_client(tmp_path: Path) -> None:
    one, other = tmp_path / "one.sock", tmp_path / "other.sock"
    async with (
        at_a_socket(one, always(NOT_FOUND)),
        at_a_socket(other, always(http(b"{}"))),
        asking(tmp_path, one, other) as server,
    ):
        assert await try_login(server) is None


async def test_the_consistency_check_requests_the_daemons_own_key(tmp_path: Path) -> None:
    async def answer(question: Question) -> bytes:
        if question.line.startswith("GET /localapi/v0/status?peers=false "):
            return http(b'{"BackendState":"Running","Self":{"PublicKey":"%s"}}' % str(SELF).encode())
        return http(b"{}") if SELF.hex() in question.line else NOT_FOUND

    socket = tmp_path / "tailscaled.sock"
    async with at_a_socket(socket, answer) as verifier, asking(tmp_path, socket) as server:
        assert await server.get("/debug/check") == (200, "derp.Server ConsistencyCheck okay")
        assert len(verifier.asked) == 2


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (http(b'{"Self":{"PublicKey":"%s"}}' % str(SELF).encode()), "verifyClient for self nodekey: peer nodekey:"),
        (http(b'{"Self":null}'), "has no node key"),
        (http(b'{"Self":{"PublicKey":"me"}}'), "a status that cannot be read"),
        (http(b"{}", "403 Forbidden"), "Access denied"),
        (NOT_FOUND, "localClient.Status: "),
    ],
    ids=["unknown-to-itself", "logged-out", "no-key", "denied", "too-old"],
)
async def test_the_consistency_check_reports_why_the_daemon_cannot_verify(
    tmp_path: Path, status: bytes, found: str
) -> None:
    async def answer(question: Question) -> bytes:
        return status if "status" in question.line else NOT_FOUND

    socket = tmp_path / "tailscaled.sock"
    async with at_a_socket(socket, answer), asking(tmp_path, socket) as server:
        code, body = await server.get("/debug/check")
        assert code == 500
        assert found in body


async def test_an_answer_with_a_long_head_is_read(tmp_path: Path) -> None:
    async with judged(tmp_path, http(b"{}", "200 OK", f"X-Long: {'a' * 100_000}")) as (server, _):
        assert await try_login(server) is None
