"""A certificate and its key in two files of a directory, which are replaced together.

Two files cannot be replaced at once, so new ones are first written beside the old under the name of the next pair, and
then renamed, the key first. A crash in between leaves a next certificate without its key, and `mend` finishes the work.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from derper.errors import ConfigError
from derper.host import files
from derper.server.certificates import pem
from derper.server.certificates.pem import Host


@dataclass(frozen=True, slots=True)
class Pair:
    """Where a certificate and its key lie."""

    certificate: Path
    key: Path

    @classmethod
    def named(cls, directory: Path, name: str) -> Self:
        """The pair of that name."""
        return cls(directory / f"{name}.crt", directory / f"{name}.key")

    @property
    def next(self) -> "Pair":
        """The pair that is to follow this one."""
        return Pair.named(self.certificate.parent, f"{self.certificate.name.removesuffix('.crt')}.next")

    def exists(self) -> bool:
        """Whether any of the two is there."""
        return self.certificate.exists() or self.key.exists()

    def write(self, chain: bytes, key: bytes) -> None:
        """Write both, in PEM, where there is none yet."""
        files.write(self.key, key, "the private key")
        files.write(self.certificate, chain, "the certificate", mode=0o644)

    def replace(self, chain: bytes, key: bytes) -> None:
        """Write both in the place of those that are there."""
        self.next.write(chain, key)
        self.take_next()

    def take_next(self) -> None:
        """Put the next pair, which is there, in the place of this one."""
        files.rename(self.next.key, self.key, "the private key")
        files.rename(self.next.certificate, self.certificate, "the certificate")

    def mend(self, host: Host) -> None:
        """Finish what a crash may have left undone."""
        if self.next.key.exists() or not self.next.certificate.exists():
            return
        try:
            pem.load(self.next.certificate, self.key, host)
        except ConfigError:
            return  # somebody else's doing: not ours to touch
        files.rename(self.next.certificate, self.certificate, "the certificate")
