"""Certificates from Pebble, which checks the challenges: proofs of a host, served and stored files, failures."""

import asyncio
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from issued import NAME, answer_to_hello, asking_for, certificates_of, challenge_context, dns_hook, having, leaf, until
from pebble import Pebble

from derper.metrics import exposition
from derper.server.certificates.acme.store import ACCOUNT

pytest_plugins = ["ca"]


async def test_a_name_is_proved_over_http_and_clients_trust_the_certificate(tmp_path: Path, pebble: Pebble) -> None:
    async with having(tmp_path, pebble) as server:
        seen = await leaf(server, context=pebble.context())
        with pytest.raises(ssl.SSLError):
            await leaf(server, "other.example.test")
        with pytest.raises(ssl.SSLError):
            await leaf(server, None)
        (status,) = certificates_of(server).status()
        metric = f'derper_certificate_expiration_timestamp_seconds{{name="{NAME}"}}'
        assert metric in exposition.text(server.parts.metrics.families())
    assert seen.not_valid_after_utc == status.ends
    assert status.renews is not None
    assert datetime.now(UTC) < status.renews < seen.not_valid_after_utc


async def test_the_key_and_the_chain_are_in_one_file_of_that_name_for_its_owner_only(
    tmp_path: Path, pebble: Pebble
) -> None:
    async with having(tmp_path, pebble) as server:
        seen = await leaf(server)
    files = sorted((tmp_path / "certs").iterdir())
    assert [path.name for path in files] == [ACCOUNT, NAME]
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().startswith("-----BEGIN EC PRIVATE KEY-----\n")
    kept = files[1].read_bytes()
    key = load_pem_private_key(kept[: kept.index(b"-----BEGIN CERT")], None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == seen.public_key()


async def test_a_restarted_server_needs_no_order(tmp_path: Path, pebble: Pebble) -> None:
    async with having(tmp_path, pebble) as server:
        first = await leaf(server)
    orders = pebble.orders()
    async with having(tmp_path, pebble) as server:
        assert await leaf(server) == first
    assert pebble.orders() == orders


async def test_a_name_is_proved_by_dns_records_that_a_program_sets(tmp_path: Path, pebble: Pebble) -> None:
    hook = dns_hook(tmp_path, pebble)
    async with having(tmp_path, pebble, "-acme-dns-hook", str(hook), "-http-port", "-1") as server:
        await leaf(server, context=pebble.context())
    asked = f"_acme-challenge.{NAME}."
    assert (tmp_path / "calls").read_text() == f"present {asked}\ncleanup {asked}\n"


async def test_a_program_for_dns_records_that_fails_is_quoted(tmp_path: Path, pebble: Pebble) -> None:
    hook = dns_hook(tmp_path, pebble, fails_to="present")
    flags = ("-acme-dns-hook", str(hook), "-http-port", "-1")
    async with having(tmp_path, pebble, *flags, name="dns.example.test", wait=False) as server:
        status = await until(server, lambda status: bool(status.failures))
    assert "failed to present with exit code 1: the provider says no" in status.problem
    assert "cleanup" in (tmp_path / "calls").read_text()


async def test_without_a_certificate_handshakes_fail_and_the_status_has_the_reason(
    tmp_path: Path, pebble: Pebble
) -> None:
    name = "blocked.example.test"
    async with having(tmp_path, pebble, name=name, wait=False) as server:
        status = await until(server, lambda status: bool(status.failures))
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            await leaf(server, name)
    assert status.ends is None
    assert "issuance is forbidden" in status.problem
    assert status.renews is not None
    assert timedelta(seconds=50) < status.renews - datetime.now(UTC) <= timedelta(seconds=60)


async def test_a_server_starts_while_its_ca_is_unreachable(tmp_path: Path) -> None:
    away = Pebble(tmp_path / "pebble")
    async with having(tmp_path, away, wait=False) as server:
        status = await until(server, lambda status: bool(status.failures))
        assert "Connection refused" in status.problem
        with away:
            await server.parts.reload()  # as SIGHUP does, so that the test need not wait for the next try
            await until(server, lambda status: status.ends is not None)
            await leaf(server, context=away.context())


async def test_a_name_is_proved_in_a_tls_handshake_if_port_80_is_not_served(tmp_path: Path, pebble: Pebble) -> None:
    async with having(tmp_path, pebble, "-http-port", "-1") as server:
        await leaf(server, context=pebble.context())
        with pytest.raises(ssl.SSLError):  # the CA has checked; the challenge is not served to others
            await leaf(server, context=challenge_context())


async def test_the_second_kind_of_challenge_is_tried_if_the_first_fails(tmp_path: Path, pebble: Pebble) -> None:
    # The CA checks TLS-ALPN-01 at a closed port, and HTTP-01 at ours.
    elsewhere = ("-a", "127.0.0.1:0")
    async with having(tmp_path, pebble, *elsewhere) as server:
        await leaf(server, context=pebble.context())


async def test_an_address_gets_a_short_lived_certificate_for_its_first_client(tmp_path: Path, pebble: Pebble) -> None:
    address = "127.0.0.1"
    async with having(tmp_path, pebble, "-acme-ip-certs") as server:
        with pytest.raises(ssl.SSLError):
            await leaf(server, None)
        await asyncio.gather(*(leaf(server, None) for _ in range(5)), return_exceptions=True)
        await until(server, lambda status: status.ends is not None, address)
        seen = await leaf(server, None, pebble.context())
        assert (await leaf(server, NAME, pebble.context())) != seen
        assert await asking_for(server, address) == seen
        assert await asking_for(server, "127.0.0.9") is None
    assert timedelta(days=5.9) < seen.not_valid_after_utc - seen.not_valid_before_utc <= timedelta(days=6)
    assert sorted(path.name for path in (tmp_path / "certs").iterdir()) == sorted(
        [ACCOUNT, NAME, f"{address}.crt", f"{address}.key"]
    )
    assert stat.S_IMODE((tmp_path / "certs" / f"{address}.key").stat().st_mode) == 0o600


async def test_a_server_whose_host_is_an_address_orders_a_certificate_for_it(tmp_path: Path, pebble: Pebble) -> None:
    orders = pebble.orders()
    async with having(tmp_path, pebble, "-acme-ip-certs", name="127.0.0.1") as server:
        await leaf(server, None, pebble.context())
        (status,) = certificates_of(server).status()
    assert status.renews is not None
    assert status.ends is not None
    assert timedelta(days=1) < status.ends - status.renews < timedelta(days=4)  # whether or not the CA suggests a time
    assert pebble.orders() <= orders + 1


async def test_a_full_disk_does_not_stop_the_server_from_serving(tmp_path: Path, pebble: Pebble) -> None:
    async with having(tmp_path, pebble, wait=False) as server:
        # A folder has the file's name, so the file cannot be written.
        (tmp_path / "certs" / NAME).mkdir(parents=True)
        status = await until(server, lambda status: status.ends is not None and bool(status.problem))
        assert "cannot be written" in status.problem
        await leaf(server, context=pebble.context())
        (tmp_path / "certs" / NAME).rmdir()
        await server.parts.reload()
        await until(server, lambda status: not status.problem)
    assert (tmp_path / "certs" / NAME).is_file()


async def test_invalid_server_names_are_rejected_and_others_are_served(tmp_path: Path, pebble: Pebble) -> None:
    async with having(tmp_path, pebble) as server:
        for name in (b"x" * 300, b"x" * 10_000, b"a\0b", b"\xff\xfe", b"..", b"", b"a_b.example.test"):
            assert await answer_to_hello(server, name) in (b"\x15", b""), name  # an alert or the end of the stream
        assert await asking_for(server, NAME.upper()) is not None
        await leaf(server, context=pebble.context())
