"""Renewal of certificates: while clients relay, when the CA suggests it, and while the CA is unreachable."""

import asyncio
import itertools
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from issued import NAME, another_leaf, certificates_of, having, leaf, until
from live import Client
from parts import program
from pebble import EAB_KEY, EAB_KID, Pebble

from derper.protocol.frames import SendPacket
from derper.server.certificates.acme import issuer, renewal
from derper.server.certificates.sources import Status

pytest_plugins = ["ca"]

HOUR = timedelta(hours=1)


def is_other_than(before: Status) -> Callable[[Status], bool]:
    return lambda status: status.ends != before.ends


class PacketStream:
    """Two clients: one sends numbered packets to the other all the time."""

    def __init__(self, sender: Client, receiver: Client) -> None:
        self.sent = self.received = self.lost = 0
        self._sender, self._receiver = sender, receiver
        self._ending = False

    async def go_on(self) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._receive())
            both.create_task(self._send())

    def end(self) -> None:
        self._ending = True

    async def _send(self) -> None:
        while not self._ending:
            for _ in range(8):  # fewer than a receiver's queue holds, so none is dropped
                self._sender.out.write(SendPacket(self._receiver.key, self.sent.to_bytes(8, "big") * 100).encode())
                self.sent += 1
            await self._sender.out.drain()
            await asyncio.sleep(0.005)
        self._sender.out.write(SendPacket(self._receiver.key, b"\xff" * 8).encode())

    async def _receive(self) -> None:
        for expected in itertools.count():
            number = int.from_bytes((await self._receiver.next_frame()).payload[-8:], "big")
            if number == 2**64 - 1:
                self.lost += self.sent - expected
                return
            assert number == expected, f"packet {number} came where {expected} was due"
            self.received += 1


async def test_no_packet_is_lost_during_a_renewal_of_the_certificate(
    tmp_path: Path,
) -> None:
    with Pebble(tmp_path / "pebble", profiles={"brief": 9}) as pebble:
        async with having(tmp_path, pebble) as server:
            talk = PacketStream(*[await Client.log_in(server) for _ in range(2)])
            talking = asyncio.create_task(talk.go_on())
            seen = {(await leaf(server, context=pebble.context())).serial_number}
            for _ in range(2):
                await until(server, is_other_than(certificates_of(server).status()[0]))
                seen.add((await leaf(server, context=pebble.context())).serial_number)
            while talk.sent <= 1_000:  # noqa: ASYNC110  a slow machine needs longer than the renewals take
                await asyncio.sleep(0.05)
            talk.end()
            await talking
    sys.stdout.write(f"renewals: {len(seen) - 1}, packets: {talk.received}\n")  # shown by pytest -rP
    assert len(seen) == 3
    assert talk.received == talk.sent
    assert talk.lost == 0


async def test_a_certificate_is_renewed_when_the_ca_suggests_it(tmp_path: Path, pebble: Pebble) -> None:
    async with having(tmp_path, pebble) as server:
        first = await leaf(server)
        now = datetime.now(UTC)
        pebble.suggest(pem(first), now - 2 * HOUR, now - HOUR)
        await server.parts.reload()
        assert await another_leaf(server, first) == await leaf(server, context=pebble.context())


async def test_a_certificate_stays_while_the_ca_is_unreachable_and_orders_are_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "FIRST_RETRY", timedelta(seconds=0.1))
    pebble = Pebble(tmp_path / "pebble", profiles={"brief": 15})
    with pebble:
        async with having(tmp_path, pebble) as server:
            first = await leaf(server)
            pebble.stop()
            status = await until(server, lambda status: status.failures > 1)
            assert status.ends == first.not_valid_after_utc
            assert await leaf(server) == first
            pebble.start()  # without our account, and with another root
            await until(server, lambda status: not status.failures and status.ends != first.not_valid_after_utc)
            await leaf(server, context=pebble.context())


@pytest.fixture(scope="module")
def binding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """A CA that requires an external account binding."""
    with Pebble(tmp_path_factory.mktemp("binding"), binds=True) as started:
        yield started


@pytest.mark.parametrize("form", ["plain", "standard", "file"])
async def test_an_account_is_bound_to_an_external_account(tmp_path: Path, binding: Pebble, form: str) -> None:
    key = EAB_KEY.replace("-", "+").replace("_", "/") + "=" * (-len(EAB_KEY) % 4) if form == "standard" else EAB_KEY
    flags = ["-acme-eab-key", key]
    if form == "file":
        (tmp_path / "eab.key").write_text(f"{key}\n")
        flags = ["-acme-eab-key-file", str(tmp_path / "eab.key")]
    email = ("-acme-email", "owner@example.test")
    async with having(tmp_path, binding, "-certmode", "gcp", *email, "-acme-eab-kid", EAB_KID, *flags) as server:
        await leaf(server, context=binding.context())


async def test_an_unknown_external_account_is_reported(tmp_path: Path, binding: Pebble) -> None:
    async with having(tmp_path, binding, "-acme-eab-kid", EAB_KID, "-acme-eab-key", "c2VjcmV0", wait=False) as server:
        status = await until(server, lambda status: bool(status.failures))
    assert "unauthorized" in status.problem or "malformed" in status.problem
    async with having(tmp_path, binding, wait=False) as server:
        status = await until(server, lambda status: bool(status.failures))
    assert "externalAccountRequired" in status.problem


def autocert(cache: Path, pebble: Pebble, directory: str) -> str:
    """Get a certificate with the Go server's library, from the CA or its cache; return the leaf in PEM."""
    words = ("-cache", cache, "-name", NAME, "-directory", directory, "-roots", pebble.roots)
    done = subprocess.run(
        [program("autocert"), *words, "-listen", f"127.0.0.1:{pebble.tls_port}"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


NOWHERE = "https://127.0.0.1:1/directory"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """A CA that accepts every nonce: the Go library waits for seconds after a rejected one."""
    with Pebble(tmp_path_factory.mktemp("calm"), nonce_rejects=0) as started:
        yield started


async def test_certificates_of_the_go_server_are_used_without_an_order(tmp_path: Path, calm: Pebble) -> None:
    cache = tmp_path / "certs"
    theirs = await asyncio.to_thread(autocert, cache, calm, calm.url)
    account = (cache / "acme_account+key").read_bytes()
    orders = calm.orders()
    async with having(tmp_path, calm) as server:
        first = await leaf(server, context=calm.context())
        assert pem(first) == theirs
        assert calm.orders() == orders
        now = datetime.now(UTC)
        calm.suggest(theirs, now - 2 * HOUR, now - HOUR)
        await server.parts.reload()
        await another_leaf(server, first)
    assert (cache / "acme_account+key").read_bytes() == account


async def test_the_go_server_uses_our_certificates_without_an_order(tmp_path: Path, calm: Pebble) -> None:
    async with having(tmp_path, calm) as server:
        ours = await leaf(server)
    assert await asyncio.to_thread(autocert, tmp_path / "certs", calm, NOWHERE) == pem(ours)


async def test_names_of_the_fleet_are_ordered_for_their_first_client(tmp_path: Path, pebble: Pebble) -> None:
    async with having(tmp_path, pebble, name="derp.tailscale.com", wait=False) as server:
        assert certificates_of(server).status() == []
        orders = pebble.orders()
        for name in ("derp7.tailscale.com", "derp7.tailscale.com", "www.tailscale.com", "derp7.x.tailscale.com"):
            with pytest.raises(ssl.SSLError):
                await leaf(server, name)
        await until(server, lambda status: status.ends is not None, "derp7.tailscale.com")
        await leaf(server, "derp7.tailscale.com", pebble.context())
        assert [status.host for status in certificates_of(server).status()] == ["derp7.tailscale.com"]
        assert pebble.orders() - orders == 1


async def test_requests_from_strangers_cause_a_bounded_number_of_orders(
    tmp_path: Path, pebble: Pebble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer, "MOST_ON_DEMAND", 2)
    async with having(tmp_path, pebble, name="derp.tailscale.com", wait=False) as server:
        orders = pebble.orders()
        names = [f"derp{number}.tailscale.com" for number in range(6)]
        for name in names:
            with pytest.raises(ssl.SSLError):
                await leaf(server, name)
        for name in names[:2]:
            await until(server, lambda status: status.ends is not None, name)
        assert pebble.orders() - orders == 2


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
