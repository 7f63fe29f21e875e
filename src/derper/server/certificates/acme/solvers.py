"""Solvers of ACME challenges: HTTP-01 on port 80, TLS-ALPN-01 in a TLS handshake, DNS-01 by a program.

Each solver publishes the response to a challenge while its context is open. They run on the event loop. DNS records are
set by the operator's own program.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from acme import challenges as known
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from josepy.jwk import JWK

from derper.credentials.pem import Certificate, Host
from derper.dataplane import Serves
from derper.errors import ConfigError
from derper.server.certificates.acme.directory import ChallengeError, OrderError
from derper.server.certificates.sources import Show

HOOK_SECONDS: Final = 300.0
_MAX_OUTPUT: Final = 2_000  # bytes of the hook's output that are logged
_ACME_IDENTIFIER: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_DAY: Final = timedelta(days=1)


@known.ChallengeResponse.register
class TlsAlpn01Response(known.KeyAuthorizationChallengeResponse):
    """The answer to a tls-alpn-01 challenge."""

    typ = "tls-alpn-01"


@known.Challenge.register
class TlsAlpn01(known.KeyAuthorizationChallenge):
    """tls-alpn-01 (RFC 8737), which the library no longer has."""

    response_cls = TlsAlpn01Response
    typ = response_cls.typ

    def validation(self, account_key: JWK, *, name: str = "", **_others: object) -> Certificate:
        """Return the certificate for the CA's check."""
        digest = hashlib.sha256(self.key_authorization(account_key).encode()).digest()
        return _challenge_certificate(name, digest)


def _challenge_certificate(name: str, digest: bytes) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ACME challenge")])
    begins = datetime.now(UTC) - _DAY
    octets = b"\x04" + bytes([len(digest)]) + digest  # DER: an OCTET STRING
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + 2 * _DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(_ACME_IDENTIFIER, octets), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        chain=(certificate.public_bytes(Encoding.DER),),
        key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        begins=begins,
        ends=begins + 2 * _DAY,
        self_signed=True,
    )


class Tokens(Protocol):
    """The responses of port 80."""

    def put(self, token: str, key_authorization: str) -> None:
        """Add the response to a token."""

    def drop(self, token: str) -> None:
        """Remove the response to a token."""


class ChallengeSolver(Protocol):
    """A kind of challenge and its solution."""

    kind: str

    def proves(self, host: Host) -> bool:
        """Return whether this solver can prove a host."""

    def present(
        self, host: Host, challenge: known.KeyAuthorizationChallenge, key: JWK
    ) -> AbstractAsyncContextManager[None]:
        """Publish the proof while the context is open."""


class Http01Solver:
    """HTTP-01: a response on port 80."""

    kind = "http-01"

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def proves(self, _host: Host) -> bool:
        """Return True: any host has a port 80."""
        return True

    @asynccontextmanager
    async def present(self, _host: Host, challenge: known.KeyAuthorizationChallenge, key: JWK) -> AsyncIterator[None]:
        """Publish the response on port 80."""
        token = challenge.encode("token")
        self._tokens.put(token, challenge.key_authorization(key))
        try:
            yield
        finally:
            self._tokens.drop(token)


class TlsAlpn01Solver:
    """TLS-ALPN-01: a special certificate in a handshake that asks for it."""

    kind = "tls-alpn-01"

    def __init__(self, show: Show) -> None:
        self._show = show

    def proves(self, host: Host) -> bool:
        """Return whether the host is a name; an address would need a special name, and is proved over HTTP."""
        return isinstance(host, str)

    @asynccontextmanager
    async def present(self, host: Host, challenge: known.KeyAuthorizationChallenge, key: JWK) -> AsyncIterator[None]:
        """Serve the certificate."""
        name = str(host)
        asked = Serves.challenge(name)
        try:
            self._show(asked, challenge.validation(key, name=name))
        except ConfigError as error:
            raise ChallengeError(f"{self.kind}: {error}") from None
        try:
            yield
        finally:
            self._show(asked, None)


class Dns01Solver:
    """DNS-01: the operator's program sets a TXT record, and returns once the CA can see it."""

    kind = "dns-01"

    def __init__(self, program: Path) -> None:
        self._program = program

    def proves(self, host: Host) -> bool:
        """Return whether the host is a name; an address has no records."""
        return isinstance(host, str)

    @asynccontextmanager
    async def present(self, host: Host, challenge: known.KeyAuthorizationChallenge, key: JWK) -> AsyncIterator[None]:
        """Set the record."""
        words = (f"_acme-challenge.{host}.", challenge.validation(key))
        try:
            await self._call("present", *words)
            yield
        finally:
            await self._call("cleanup", *words)

    async def _call(self, action: str, *words: str) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                self._program, action, *words,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise OrderError(f"the program {self._program} of -acme-dns-hook cannot run ({error.strerror})") from None
        try:
            async with asyncio.timeout(HOOK_SECONDS):
                output = await _last_of(process)
                code = await process.wait()
        except TimeoutError:
            raise OrderError(
                f"the program {self._program} of -acme-dns-hook took longer than {HOOK_SECONDS:.0f} s to {action}"
            ) from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
        if code != 0:
            raise OrderError(
                f"the program {self._program} of -acme-dns-hook failed to {action} with exit code {code}: "
                + output.decode("utf-8", "replace").strip()
            )


async def _last_of(process: asyncio.subprocess.Process) -> bytes:
    """Read the process's output, and return its last bytes."""
    output = b""
    if process.stdout is not None:
        while piece := await process.stdout.read(_MAX_OUTPUT):
            output = (output + piece)[-_MAX_OUTPUT:]
    return output
