"""Names of Tailscale's own relays, such as the default of `-hostname`: no public CA gets an order for them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from issued import asking_for, certificates_of
from live import SECONDS, Server, config_of, serving
from made import make
from structlog.testing import capture_logs

from derper.config import GOOGLE, LETS_ENCRYPT
from derper.server.certificates.acme.store import Store
from derper.server.certificates.acme.tailscale_names import reason_not_to_order

DAY = timedelta(days=1)
ERROR = (
    "no certificate is ordered for derp.tailscale.com, the default of -hostname and a name of Tailscale's own relays; "
    "set -hostname to the DNS name of this relay"
)


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[str, list[str]]]:
    """Run a proxy that rejects all requests, so none leaves the machine; yield its URL and the requested hosts."""
    asked: list[str] = []

    async def refuse(stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        head = await stream.readuntil(b"\r\n\r\n")
        asked.append(head.split()[1].decode())
        out.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        out.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


@asynccontextmanager
async def at_lets_encrypt(folder: Path, *flags: str) -> AsyncIterator[tuple[Server, list[str]]]:
    """Run a server whose CA is Let's Encrypt, reached through that proxy."""
    async with proxy() as (url, asked):
        words = ("-tls", "on", "-http-port", "0", "-certdir", str(folder / "certs"), "-acme-ip-certs", *flags)
        async with serving(config_of(folder, *words, HTTPS_PROXY=url)) as server:
            yield server, asked


async def hosts_ordered(server: Server, asked: list[str], lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Make the server order for an address, which is allowed; return the hosts that were ordered until then.

    Orders take turns at the disk, so an earlier order is earlier in the log.
    """
    assert await asking_for(server, "127.0.0.1") is None
    async with asyncio.timeout(SECONDS):
        while not any(line.get("reason") for line in lines if str(line.get("host")) == "127.0.0.1"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the log is the only sign
    assert set(asked) == {"acme-v02.api.letsencrypt.org:443"}
    return [str(line["host"]) for line in lines if line["event"] == "ordering a certificate"]


@pytest.mark.parametrize("name", ["derp.tailscale.com", "derp7.tailscale.com", "DERP7b.Tailscale.com."])
async def test_no_order_for_a_tailscale_name_is_sent_to_lets_encrypt(tmp_path: Path, name: str) -> None:
    with capture_logs() as lines:
        async with at_lets_encrypt(tmp_path, "-hostname", name) as (server, asked):
            for client in ("derp.tailscale.com", "derp7.tailscale.com", "derp7b.tailscale.com"):
                assert await asking_for(server, client) is None
            await certificates_of(server).reload()
            assert await hosts_ordered(server, asked, lines) == ["127.0.0.1"]
    errors = [line["event"] for line in lines if line["log_level"] == "error" and "set -hostname" in line["event"]]
    assert len(errors) == 1
    assert name.lower().removesuffix(".") in errors[0]


async def test_the_default_host_name_is_an_error_that_names_the_flag_to_set(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with at_lets_encrypt(tmp_path):
            pass
    assert [line["event"] for line in lines if line["log_level"] in {"error", "warning"}] == [ERROR]


async def test_another_name_is_ordered(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with at_lets_encrypt(tmp_path, "-hostname", "derp.example.com") as (server, asked):
            assert sorted(await hosts_ordered(server, asked, lines)) == ["127.0.0.1", "derp.example.com"]


async def test_a_certificate_on_disk_is_served_and_not_renewed(tmp_path: Path) -> None:
    name = "derp7.tailscale.com"
    Store(tmp_path / "certs").save(name, *make(name, datetime.now(UTC) - 70 * DAY, 90 * DAY))  # due for ten days
    with capture_logs() as lines:
        async with at_lets_encrypt(tmp_path, "-hostname", name) as (server, asked):
            assert await asking_for(server, name) is not None
            await certificates_of(server).reload()
            assert await hosts_ordered(server, asked, lines) == ["127.0.0.1"]
            [status] = [status for status in certificates_of(server).status() if status.host == name]
            assert "set -hostname" in status.problem


@pytest.mark.parametrize(
    ("host", "directory", "may_order"),
    [
        ("derp.tailscale.com", LETS_ENCRYPT, False),
        ("derp12b.tailscale.com", GOOGLE, False),
        ("derp.tailscale.com", "https://acme-staging-v02.api.letsencrypt.org/directory", False),
        ("derp.tailscale.com", "https://ACME-v02.api.LetsEncrypt.org:443/directory", False),
        ("derp.tailscale.com", "https://ca.example.com/letsencrypt.org", True),
        ("derp.tailscale.com", "https://notletsencrypt.org/directory", True),
        ("derp.example.com", LETS_ENCRYPT, True),
        ("derp.tailscale.com.example.com", LETS_ENCRYPT, True),
    ],
)
def test_only_public_cas_get_no_orders_for_tailscale_names(host: str, directory: str, *, may_order: bool) -> None:
    assert (reason_not_to_order(host, directory) == "") == may_order
