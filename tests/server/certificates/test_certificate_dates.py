"""Certificates outside their validity: served as Go's server does, logged every hour, and shown as errors."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from issued import NAME, certificates_of, leaf
from live import SECONDS, config_of, serving
from made import make
from relays import HOST, GoDerper, OurDerper, Relay, free_port
from structlog.testing import capture_logs
from test_acme_lies import NoTokens
from test_manual_files import ADDRESS, Files, put

from derper.client import Connected, DerpClient, stun
from derper.credentials.pairs import Pair
from derper.dataplane import Serves
from derper.protocol.derpmap import Node, Region
from derper.server.certificates import manual
from derper.server.certificates.acme.issuer import Issuer
from derper.server.certificates.acme.store import Store
from derper.server.certificates.sources import utc_now

DAY = timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)
BEGINS = {"certificate has expired": NOW - 31 * DAY, "certificate is not yet valid": NOW + DAY}
REASONS = list(BEGINS)
INVALID = f'derper_certificate_valid{{name="{NAME}"}}'


@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize("kind", [OurDerper, GoDerper], ids=lambda kind: kind.name)
async def test_clients_that_do_not_verify_certificates_relay(kind: type[Relay], reason: str, tmp_path: Path) -> None:
    certs, stun_port = tmp_path / "certs", free_port()
    certs.mkdir()
    put(certs, begins=BEGINS[reason])
    flags = ("-hostname", NAME, "-stun=true", "-stun-port", str(stun_port))
    with kind(tmp_path, tls=True, flags=flags) as relay:
        node = Node("900a", 900, NAME, ipv4=HOST, derp_port=relay.port, insecure_for_tests=True)
        async with asyncio.timeout(SECONDS), DerpClient(Region(900, "test", nodes=(node,))) as client:
            assert isinstance(await client.receive(), Connected)
            await client.send(client.key, b"to itself")
            assert (await client.packet()).packet == b"to itself"
        assert str((await stun.ask(HOST, stun_port, SECONDS, every=1.0)).ip) == HOST
        if kind is OurDerper:
            relay.wait_for_log(f"level=error .*{reason}")


@pytest.mark.parametrize("reason", REASONS)
async def test_the_metric_the_page_and_the_check_show_the_error_until_the_files_change(
    tmp_path: Path, reason: str
) -> None:
    put(tmp_path, begins=BEGINS[reason])
    config = config_of(tmp_path, "-certmode", "manual", "-certdir", str(tmp_path), "-hostname", NAME)
    async with serving(config) as server:
        assert await server.sample(INVALID) == 0
        _, page = await server.get("/debug/")
        assert f'<p class="bad">{NAME}: {reason}' in page
        _, live = await server.get("/debug/live")
        (problem,) = json.loads(live)["problems"]
        assert reason in problem
        code, check = await server.get("/debug/check")
        assert (code, problem in check) == (500, True)

        ends = put(tmp_path)
        await server.wait_for(INVALID, 1)
        assert (await leaf(server)).not_valid_after_utc == ends
        _, page = await server.get("/debug/")
        assert reason not in page
        assert json.loads((await server.get("/debug/live"))[1])["problems"] == []
        assert (await server.get("/debug/check"))[0] == 200


async def test_an_error_is_logged_at_each_check_while_it_lasts(tmp_path: Path) -> None:
    put(tmp_path, begins=BEGINS[REASONS[0]])
    config = config_of(tmp_path, "-certmode", "manual", "-certdir", str(tmp_path), "-hostname", NAME)
    async with serving(config) as server:
        certificates = certificates_of(server)
        await leaf(server)  # after this, the server's own first check is over
        with capture_logs() as logs:
            certificates.look()
            certificates.look()
        assert [(line["log_level"], line["host"]) for line in logs] == [("error", NAME)] * 2
        assert all("certificate has expired" in str(line["reason"]) for line in logs)
        put(tmp_path)
        with capture_logs() as logs:
            await server.parts.reload()
            certificates.look()
        assert not [line for line in logs if line["log_level"] == "error"]


async def test_new_files_replace_an_invalid_certificate_whatever_their_own_dates(tmp_path: Path) -> None:
    put(tmp_path, begins=NOW - 31 * DAY)
    files = Files(tmp_path, NAME)
    await files.load()
    assert files.end == NOW - DAY
    ends = put(tmp_path, begins=NOW + DAY)
    await files.look()
    assert files.end == ends


@pytest.mark.parametrize("when", ["the new one begins", "the old one ends"])
async def test_files_rejected_for_their_dates_are_served_once_valid(tmp_path: Path, when: str) -> None:
    old = put(tmp_path, life=3 * DAY)
    files = Files(tmp_path, NAME)
    await files.load()
    begins = NOW + (DAY if when == "the new one begins" else 5 * DAY)
    new = put(tmp_path, begins=begins)
    for _ in range(3):
        await files.look()
    assert files.end == old
    files.now = NOW + 2 * DAY + timedelta(hours=1)
    with capture_logs() as logs:
        await files.look()
    assert files.end == new
    assert [line["log_level"] for line in logs] == ["info"]
    assert not files.status()[0].problem


async def test_a_pin_survives_a_start_with_a_clock_that_is_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path, ADDRESS)
    await files.load()
    pinned = files.shown
    files.now = NOW + 320 * DAY
    await files.look()
    assert Pair.named(tmp_path, ADDRESS).next.exists()

    ahead = Files(tmp_path, ADDRESS)
    ahead.now = NOW + 400 * DAY
    await ahead.load()
    await ahead.look()
    assert ahead.shown == pinned, "the clock may be wrong for a while"
    ahead.now = NOW + 321 * DAY
    monkeypatch.setattr(manual, "CLOCK_SETTLES_SECONDS", 0.0)
    await ahead.look()
    assert ahead.shown == pinned

    ahead.now = NOW + 400 * DAY
    await ahead.look()
    assert ahead.shown != pinned
    assert ahead.end > ahead.now


async def test_a_server_stopped_for_a_year_makes_its_next_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Files(tmp_path, ADDRESS)
    await first.load()
    files = Files(tmp_path, ADDRESS)
    files.now = NOW + 400 * DAY
    await files.load()
    assert files.shown == first.shown
    monkeypatch.setattr(manual, "CLOCK_SETTLES_SECONDS", 0.0)
    await files.look()
    assert files.end > files.now


async def test_a_next_certificate_made_with_a_wrong_clock_is_never_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manual, "CLOCK_SETTLES_SECONDS", 0.0)
    files = Files(tmp_path, ADDRESS)
    await files.load()
    pair = Pair.named(tmp_path, ADDRESS)
    files.now = NOW + 360 * DAY
    pair.next.write(*manual.make_self_signed(IPv4Address(ADDRESS), files.now + 30 * DAY))
    await files.look()
    assert files.shown is not None
    assert files.shown.begins <= files.now < files.shown.ends


@pytest.mark.parametrize("reason", REASONS)
async def test_a_stored_certificate_is_served_while_a_new_one_is_ordered(tmp_path: Path, reason: str) -> None:
    certs = tmp_path / "certs"
    Store(certs).save(NAME, *make(NAME, BEGINS[reason], 30 * DAY))
    nobody = f"https://{HOST}:{free_port()}/directory"
    flags = ("-tls", "on", "-hostname", NAME, "-certdir", str(certs), "-acme-directory", nobody)
    shown: dict[Serves, object] = {}
    issuer = Issuer(config_of(tmp_path, *flags), shown.__setitem__, NoTokens(), utc_now)
    await issuer.load()
    assert shown[Serves.name(NAME)] is not None
    (status,) = issuer.status()
    assert reason in status.invalid(utc_now())
