"""A server in the test's own loop with certificates from Pebble, and the certificates that clients see."""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from cryptography import x509
from live import SECONDS, Server, config_of, serving
from pebble import Pebble

from derper.server.certificates.sources import Status
from derper.server.certificates.tls import Certificates

NAME: Final = "derp.example.test"


@asynccontextmanager
async def having(
    folder: Path, pebble: Pebble, *flags: str, name: str = NAME, wait: bool = True
) -> AsyncIterator[Server]:
    """Return a server for a name, once it has a certificate."""
    config = config_of(folder, "-hostname", name, "-certdir", str(folder / "certs"), *pebble.flags, *flags)
    async with serving(config) as server:
        if wait:
            await until(server, lambda status: status.ends is not None)
        yield server


def certificates_of(server: Server) -> Certificates:
    assert server.parts.certificates is not None
    return server.parts.certificates


async def until(server: Server, wanted: Callable[[Status], bool], host: str | None = None) -> Status:
    """Wait until a host's certificate meets the condition; without a host, the only certificate."""
    certificates = certificates_of(server)
    async with asyncio.timeout(SECONDS):
        while True:  # the status has no notification, so poll it
            found = [status for status in certificates.status() if host in {None, status.host} and wanted(status)]
            if found:
                return found[0]
            await asyncio.sleep(0.02)


async def leaf(server: Server, sni: str | None = NAME, context: ssl.SSLContext | None = None) -> x509.Certificate:
    """Return the certificate that a client sees; with a context, the client verifies it."""
    if context is None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with asyncio.timeout(SECONDS):
        _, out = await asyncio.open_connection("127.0.0.1", server.port, ssl=context, server_hostname=sni or "")
    try:
        seen = out.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        out.close()
    return x509.load_der_x509_certificate(seen)


async def another_leaf(server: Server, first: x509.Certificate) -> x509.Certificate:
    """Wait until clients see another certificate and return it."""
    async with asyncio.timeout(SECONDS):
        while (seen := await leaf(server)) == first:  # noqa: ASYNC110  nothing tells of it but asking again
            await asyncio.sleep(0.05)
    return seen


async def asking_for(server: Server, sni: str) -> x509.Certificate | None:
    """Return the certificate for this server name, which may be an address; None if the handshake is rejected."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", sni),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    if b"BEGIN CERTIFICATE" not in said:
        assert b"SSL alert number" in said
        return None
    return x509.load_pem_x509_certificate(said[said.index(b"-----BEGIN CERT") :])


async def answer_to_hello(server: Server, name: bytes) -> bytes:
    """Send any bytes as a server name, which no TLS library does; return the first byte of the answer."""

    def sized(data: bytes, width: int = 2) -> bytes:
        return len(data).to_bytes(width, "big") + data

    extensions = [
        (0, sized(b"\0" + sized(name))),
        (10, sized(b"\0\x17")),  # P-256
        (13, sized(b"\x04\x03")),  # ECDSA with it
    ]
    told = b"".join(kind.to_bytes(2, "big") + sized(data) for kind, data in extensions)
    hello = b"\3\3" + bytes(32) + sized(b"", 1) + sized(b"\xc0\x2b") + sized(b"\0", 1) + sized(told)
    stream, out = await asyncio.open_connection("127.0.0.1", server.port)
    out.write(b"\x16\3\1" + sized(b"\1" + sized(hello, 3)))
    try:
        async with asyncio.timeout(SECONDS):
            return await stream.read(1)
    finally:
        out.close()


def challenge_context() -> ssl.SSLContext:
    """Return the TLS context of a CA that checks a TLS-ALPN-01 challenge."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["acme-tls/1"])
    return context


def dns_hook(folder: Path, pebble: Pebble, *, fails_to: str = "") -> Path:
    """Write a program that sets records at Pebble's DNS, as an operator's program does at a provider."""
    program = folder / "dns-hook"
    program.write_text(
        f"""#!{sys.executable}
import json, sys
from urllib.request import urlopen
action, name, value = sys.argv[1:]
with open({str(folder / "calls")!r}, "a") as calls:
    print(action, name, file=calls)
if action == {fails_to!r}:
    sys.exit("the provider says no")
path = {{"present": "set-txt", "cleanup": "clear-txt"}}[action]
urlopen("http://127.0.0.1:{pebble.records_port}/" + path, json.dumps({{"host": name, "value": value}}).encode())
"""
    )
    program.chmod(0o755)
    return program
