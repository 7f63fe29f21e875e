"""A clock that was ahead for a while and is right again: no action waits for the time that it showed."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from derpwire import HOST
from live import SECONDS, config_of
from relays import free_port
from structlog.testing import capture_logs
from test_acme_lies import NoTokens
from test_manual_files import Files

from derper.metrics import process
from derper.server.certificates.acme.issuer import Issuer
from derper.server.certificates.manual import NEXT_IS_LOGGED, SELF_SIGNED_LIFE
from derper.server.certificates.sources import utc_now

DAY = timedelta(days=1)
AHEAD = timedelta(days=400)


async def test_a_failed_order_is_retried_within_minutes(tmp_path: Path) -> None:
    nobody = f"https://{HOST}:{free_port()}/directory"
    flags = ("-tls", "on", "-hostname", "derp.example.test", "-certdir", str(tmp_path / "certs"))
    now = utc_now() + AHEAD
    issuer = Issuer(config_of(tmp_path, *flags, "-acme-directory", nobody), lambda *_: None, NoTokens(), lambda: now)
    await issuer.load()
    issuer.start()
    try:
        async with asyncio.timeout(SECONDS):
            while not issuer.status()[0].failures:  # noqa: ASYNC110  nothing tells of it but asking again
                await asyncio.sleep(0.01)
        now -= AHEAD
        renews = issuer.status()[0].renews
        assert renews is not None
        assert now < renews < now + timedelta(minutes=2)
        now += timedelta(seconds=10)
        assert issuer.status()[0].renews == renews, "the pause begins again once, not at each look"
    finally:
        await issuer.stop()


async def test_the_next_self_signed_certificate_is_announced(tmp_path: Path) -> None:
    files = Files(tmp_path, HOST)
    await files.load()
    begins = files.now
    files.now = begins + SELF_SIGNED_LIFE - timedelta(days=30)
    with capture_logs() as ahead:
        await files.look()
    files.now = begins + SELF_SIGNED_LIFE - NEXT_IS_LOGGED + DAY
    with capture_logs() as right_again:
        await files.look()
    for lines in (ahead, right_again):
        assert any("expires soon" in line["event"] for line in lines), lines


def test_uptime_does_not_follow_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process.uptime()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert process.uptime() >= before
