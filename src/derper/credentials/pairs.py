"""A certificate and its key in two files of a directory, which are replaced together.

Two files cannot be replaced at once. So new ones are first written under the name of the next pair, and then renamed,
the key first. A crash in between leaves a next certificate without its key; `mend` completes the replacement.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from derper.config import Tls
from derper.credentials import pem
from derper.credentials.pem import Host
from derper.errors import ConfigError
from derper.host import files


@dataclass(frozen=True, slots=True)
class Pair:
    """The paths of a certificate and its key."""

    certificate: Path
    key: Path

    @classmethod
    def named(cls, directory: Path, name: str) -> Self:
        """Return the pair with that name."""
        return cls(directory / f"{name}.crt", directory / f"{name}.key")

    @property
    def next(self) -> "Pair":
        """The pair that will replace this one."""
        return Pair.named(self.certificate.parent, f"{self.certificate.name.removesuffix('.crt')}.next")

    def exists(self) -> bool:
        """Return whether one of the two files exists."""
        return self.certificate.exists() or self.key.exists()

    def write(self, chain: bytes, key: bytes) -> None:
        """Write both files, in PEM, one after the other; files that exist are replaced. See also `replace`."""
        files.write(self.key, key, "the private key")
        files.write(self.certificate, chain, "the certificate", mode=0o644)

    def replace(self, chain: bytes, key: bytes) -> None:
        """Replace both files."""
        self.next.write(chain, key)
        self.take_next()

    def take_next(self) -> None:
        """Replace this pair by the next pair, which must exist."""
        files.rename(self.next.key, self.key, "the private key")
        files.rename(self.next.certificate, self.certificate, "the certificate")

    def mend(self, host: Host) -> None:
        """Complete a replacement that a crash interrupted."""
        if self.next.key.exists() or not self.next.certificate.exists():
            return
        try:
            pem.load(self.next.certificate, self.key, host)
        except ConfigError:
            return  # not a state that a crash of ours can leave
        files.rename(self.next.certificate, self.certificate, "the certificate")


def pair_of(tls: Tls) -> Pair:
    """Return the paths of the certificate and its key: the host name without characters unsuitable for file names."""
    if tls.directory is None:
        raise ConfigError("no certificate directory is set; set one with -certdir")
    return Pair.named(tls.directory, re.sub(r"[^a-zA-Z0-9.-]", "", tls.hostname))
