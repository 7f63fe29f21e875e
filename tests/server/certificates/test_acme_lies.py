"""A CA that fails or sends wrong answers: a small server of ours, as Pebble cannot do this."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from issued import NAME
from live import SECONDS, config_of
from lying import Answer, LyingCa, certificate_for, endless, json_answer, trickling
from made import make

from derper.config import Config
from derper.dataplane import Serves
from derper.server.certificates.acme import directory, order
from derper.server.certificates.acme.issuer import Issuer
from derper.server.certificates.acme.store import Store
from derper.server.certificates.sources import Status, utc_now

DAY = timedelta(days=1)


class NoTokens:
    def put(self, token: str, key_authorization: str) -> None:
        """Ignore the token: the CA checks no challenge."""

    def drop(self, token: str) -> None:
        """Ignore the token."""


def config(folder: Path, ca: LyingCa) -> Config:
    return config_of(
        folder, "-tls", "on", "-http-port", "0", "-hostname", NAME, "-certdir", str(folder / "certs"), *ca.flags
    )


@asynccontextmanager
async def failing(folder: Path, ca: LyingCa) -> AsyncIterator[tuple[Issuer, Status]]:
    """Yield an issuer that has failed to get a certificate from the CA."""
    shown: list[tuple[Serves, object]] = []
    made = Issuer(config(folder, ca), lambda *item: shown.append(item), NoTokens(), utc_now)
    await made.load()
    made.start()
    try:
        async with asyncio.timeout(SECONDS):
            while not (status := made.status()[0]).failures:  # noqa: ASYNC110  nothing tells of it but asking again
                await asyncio.sleep(0.01)
        assert not [serves for serves, certificate in shown if serves == Serves.name(NAME) and certificate]
        yield made, status
    finally:
        await made.stop()


PROBLEM = {"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates\nfor \x1b[31mthis week"}


@pytest.mark.parametrize(
    ("path", "answer", "sentence"),
    [
        ("/directory", (500, {}, b"<html>"), "500"),
        ("/directory", json_answer(200, []), "cannot be understood"),
        ("/directory", json_answer(200, {}), "newAccount"),
        ("/directory", (200, {}, b"{" * 100_000), ""),
        ("/directory", json_answer(200, {"newNonce": "file:///etc/passwd"}), ""),
        ("/directory", (302, {"Location": "/directory"}, b""), "redirects"),
        ("/directory", (302, {"Location": "http://127.0.0.1:1/"}, b""), "No connection adapters"),
        ("/directory", endless, "more than 1,048,576 bytes"),
        ("/directory", trickling, "takes longer than"),
        ("/newNonce", (503, {}, b""), "busy"),
        ("/newAccount", json_answer(403, {"type": "urn:ietf:params:acme:error:unauthorized"}), "unauthorized"),
        ("/newOrder", json_answer(429, PROBLEM, **{"Retry-After": "7200"}), "too many certificates"),
        ("/newOrder", json_answer(201, {"authorizations": 7}), "cannot be understood"),
        ("/newOrder", json_answer(201, {"authorizations": ["https://127.0.0.1:1/"] * 10}), "refused"),
        ("/authorization", json_answer(200, {"identifier": {"type": "dns", "value": "bank.test"}}), "bank.test"),
        ("/finalize", json_answer(403, {"type": "urn:ietf:params:acme:error:badCSR", "detail": "no"}), "badCSR"),
        ("/order", json_answer(200, {"status": "invalid"}), "order failed"),
        ("/certificate", (200, {}, b"-----BEGIN CERTIFICATE-----"), "not one in PEM form"),
        ("/certificate", certificate_for("bank.test"), "is not that of the certificate"),
        ("/certificate", certificate_for(NAME), "is not that of the certificate"),
    ],
)  # fmt: skip
async def test_a_wrong_answer_of_the_ca_fails_only_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, answer: Answer | Callable[[Any], None], sentence: str
) -> None:
    monkeypatch.setattr(directory, "BODY_SECONDS", 0.3)
    with LyingCa(tmp_path, NAME) as ca:
        ca.answers[path] = answer
        async with failing(tmp_path, ca) as (_, status):
            assert sentence in status.problem
            assert len(status.problem) < 1_000
            assert status.ends is None


async def test_a_busy_ca_gets_no_order_until_its_retry_after(tmp_path: Path) -> None:
    with LyingCa(tmp_path, NAME) as ca:
        ca.answers["/newOrder"] = json_answer(429, PROBLEM, **{"Retry-After": "7200"})
        async with failing(tmp_path, ca) as (_, status):
            assert status.renews is not None
            assert timedelta(minutes=119) < status.renews - datetime.now(UTC) < timedelta(minutes=121)


async def test_an_order_with_endless_challenges_ends(tmp_path: Path) -> None:
    with LyingCa(tmp_path, NAME) as ca:
        ca.answers["/newOrder"] = json_answer(
            201, ca.order | {"authorizations": [f"{ca.base}/authorization"] * 10_000}, Location=f"{ca.base}/order"
        )
        async with failing(tmp_path, ca) as (_, status):
            assert "more than 200 requests" in status.problem
            assert len(ca.asked) < 300


async def test_a_ca_that_never_answers_times_out_and_does_not_delay_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order, "CALL_SECONDS", 0.3)

    def silent(_handler: Any) -> None:  # noqa: ANN401  a handler of the standard library
        asyncio.run(asyncio.sleep(3))

    with LyingCa(tmp_path, NAME) as ca:
        ca.answers["/newAccount"] = silent
        async with failing(tmp_path, ca) as (_, status):
            assert "took too long" in status.problem


async def test_a_valid_certificate_is_served_whatever_renewal_time_the_ca_suggests(tmp_path: Path) -> None:
    Store(tmp_path / "certs").save(NAME, *make(NAME, datetime.now(UTC) - 70 * DAY, 90 * DAY))  # due for ten days
    shown: dict[Serves, object] = {}
    with LyingCa(tmp_path, NAME) as ca:
        made = Issuer(config(tmp_path, ca), shown.__setitem__, NoTokens(), utc_now)
        await made.load()
        kept = shown[Serves.name(NAME)]
        made.start()
        async with asyncio.timeout(SECONDS):
            while not made.status()[0].failures:  # noqa: ASYNC110  nothing tells of it but asking again
                await asyncio.sleep(0.01)
        await made.stop()
    assert kept is not None
    assert shown[Serves.name(NAME)] == kept
