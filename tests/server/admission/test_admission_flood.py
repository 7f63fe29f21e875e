"""More logins than may be checked at once: the controller is asked about every client that is admitted."""

import asyncio
import re
import time
from pathlib import Path

import pytest
from flood import ADMITTED, controller_that_refuses, log_in_all
from live import config_of, serving
from serving import Server
from structlog.testing import capture_logs
from verifier import ALLOW, REFUSE, Question, at_a_url, http, try_login

from derper.protocol import NodePrivate
from derper.server.admission import turns, url

REFUSED = "this relay rejected this device: the relay's operator does not allow it"
BUSY = "this relay rejected this device: too many devices are logging in now; this device will retry by itself"


async def test_a_flood_of_logins_at_a_slow_controller_admits_none(tmp_path: Path) -> None:
    with (
        controller_that_refuses(after=1.5) as controller,
        Server(tmp_path, "-log-level", "info", "-verify-client-url", controller) as server,
    ):
        told = await log_in_all(server.port, 1_500)
    assert told[ADMITTED] == 0, told
    assert set(told) <= {REFUSED, BUSY}, told
    assert told[REFUSED] > 1_000, told


async def test_a_relay_that_is_out_of_descriptors_admits_none(tmp_path: Path) -> None:
    with (
        controller_that_refuses(after=1.5) as controller,
        Server(tmp_path, "-verify-client-url", controller, before=("prlimit", "--nofile=200:200")) as server,
    ):
        told = await log_in_all(server.port, 120)
        log = server.log()
    assert told[ADMITTED] == 0, told
    assert told[REFUSED] > 0, told
    assert "allowing client" not in log
    assert "Too many open files" in log, "the relay was not short of descriptors"


async def test_an_answer_that_arrived_while_the_relay_was_stopped_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url, "SECONDS", 0.5)
    with controller_that_refuses(after=0.1) as controller:
        async with serving(config_of(tmp_path, "-verify-client-url", controller), shards=1) as server:
            assert await try_login(server) == REFUSED  # and a connection to the controller is open
            for _ in range(3):
                client = asyncio.create_task(try_login(server))
                await asyncio.sleep(0.05)  # about the time until the relay asks about the client
                time.sleep(1)  # noqa: ASYNC251  the whole process stands still
                assert await client == REFUSED


async def test_a_known_client_is_checked_before_unknown_ones_and_not_admitted_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url, "IN_FLIGHT", 1)
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.2)
    thought = asyncio.Event()
    thought.set()

    async def answer(_question: Question) -> bytes:
        await thought.wait()
        return http(ALLOW)

    async with at_a_url(answer) as verifier:
        flags = ("-verify-client-url", verifier.url, "-verify-cache=1h")
        async with serving(config_of(tmp_path, *flags), shards=1) as server:
            assert await try_login(server, (known := NodePrivate(bytes([7] * 32)))) is None
            verifier.came.clear()
            thought.clear()
            first = asyncio.create_task(try_login(server))
            await verifier.came.wait()
            assert await try_login(server, known) == BUSY
            thought.set()
            assert await first is None
            assert await try_login(server, known) is None


async def test_a_kind_of_check_that_was_not_asked_admits_no_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MOST_WAITING", 0)
    monkeypatch.setattr(url, "IN_FLIGHT", 0)
    (tmp_path / "keys").write_text("")
    async with at_a_url(_refuses) as verifier:
        flags = ("-verify-client-url", verifier.url, "-allow-keys", str(tmp_path / "keys"), "-verify-any")
        with capture_logs() as log:
            async with serving(config_of(tmp_path, *flags), shards=1) as server:
                assert await try_login(server) == BUSY
        (said,) = [line for line in log if line["event"] == "client rejected"]
        assert re.fullmatch(r"too many logins at once: 0 other clients wait for a turn", said["reason"])
        assert verifier.asked == []


async def _refuses(_question: Question) -> bytes:
    return http(REFUSE)
