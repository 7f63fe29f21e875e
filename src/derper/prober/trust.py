"""Whom the prober's TLS connections trust: as `server.roots` reads them, for Python's ssl and for checks of ours."""

import ssl
from dataclasses import dataclass
from typing import Self

from cryptography import x509

from derper.config import TrustedRoots
from derper.server import roots


@dataclass(frozen=True, slots=True)
class Trust:
    """The roots, in both forms that are needed."""

    context: ssl.SSLContext
    certificates: tuple[x509.Certificate, ...]

    @classmethod
    def load(cls, trusted: TrustedRoots) -> Self:
        """Read them, once; raises `ConfigError` when a file that was named cannot be read."""
        ders = roots.load(trusted)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # A chain that ends at a trusted certificate is good, be that a root or not, as for Go.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if ders:
            context.load_verify_locations(cadata=b"".join(ders))
        return cls(context, tuple(_parsed(ders)))


def _parsed(ders: list[bytes]) -> list[x509.Certificate]:
    found = []
    for der in ders:
        try:
            found.append(x509.load_der_x509_certificate(der))
        except ValueError:  # one that cannot be read vouches for nobody
            continue
    return found
