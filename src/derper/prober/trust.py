"""The trusted roots of the prober's TLS connections: for Python's ssl, and for our own checks."""

import ssl
from dataclasses import dataclass, field
from typing import Self

from cryptography import x509

from derper.host import roots
from derper.host.trusted import TrustedRoots


@dataclass(frozen=True, slots=True)
class Trust:
    """The roots in both forms."""

    context: ssl.SSLContext
    ders: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def load(cls, trusted: TrustedRoots) -> Self:
        """Return the roots, read once; raises `ConfigError` if a configured file cannot be read."""
        ders = roots.load(trusted)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # A chain is valid if it ends at a trusted certificate, also one that is not a root, as in Go.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if ders:
            context.load_verify_locations(cadata=b"".join(ders))
        return cls(context, tuple(ders))

    def named(self, name: x509.Name) -> list[x509.Certificate]:
        """Return the roots that may have this subject; only these are parsed, as some systems trust unparsable ones."""
        encoded = name.public_bytes()
        return [x509.load_der_x509_certificate(der) for der in self.ders if encoded in der]
