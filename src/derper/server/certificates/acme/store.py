"""The files of ACME, in the Go server's layout, so that each server can use the other's files.

A name's key and chain are in one file of that name. An IP address's are in `<ip with : as .>.crt` and `.key`. The
account's key is in `acme_account+key`. Every file is written whole or not at all, readable by its owner only. Blocking.
"""

from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from structlog.typing import FilteringBoundLogger

from derper.addresses import IPAddress
from derper.credentials import pem
from derper.credentials.pairs import Pair
from derper.credentials.pem import Certificate, Host, PrivateKey
from derper.errors import ConfigError
from derper.host import files

_log: FilteringBoundLogger = structlog.get_logger()

ACCOUNT: Final = "acme_account+key"


class Store:
    """One certificate directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, host: Host) -> Certificate | None:
        """Return the stored certificate of a host, with any dates; None if there is no usable one."""
        try:
            certificate_path, key_path = self._paths(host)
            if not isinstance(host, str):
                self._pair(host).mend(host)
            if not certificate_path.exists():
                return None
            certificate = pem.load(certificate_path, key_path, host)
        except (ConfigError, OSError) as error:
            _log.warning("the stored certificate is unusable", host=host, reason=str(error))
            return None
        return certificate

    def save(self, host: Host, key: ec.EllipticCurvePrivateKey, chain: bytes) -> None:
        """Store a certificate: its key, and its chain in PEM.

        Raises:
            ConfigError: It cannot be written; the old one is unchanged.
        """
        if isinstance(host, str):
            files.write(self._directory / host, sec1(key) + chain, "the certificate with its key")
        else:
            self._pair(host).replace(chain, sec1(key))

    def account_key(self) -> PrivateKey:
        """Return the key of our account at the CA; create one if there is none.

        Raises:
            ConfigError: Its file cannot be used.
        """
        path = self._directory / ACCOUNT
        try:
            return pem.parse_key(files.read(path, "the key of the ACME account"), path)
        except ConfigError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
        key = ec.generate_private_key(ec.SECP256R1())
        files.write(path, sec1(key), "the key of the ACME account")
        _log.info("made a new key for the ACME account", file=path)
        return key

    def _paths(self, host: Host) -> tuple[Path, Path]:
        if isinstance(host, str):
            return self._directory / host, self._directory / host
        pair = self._pair(host)
        return pair.certificate, pair.key

    def _pair(self, ip: IPAddress) -> Pair:
        return Pair.named(self._directory, str(ip).replace(":", "."))


def sec1(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a key in the Go server's format (SEC 1, PEM)."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
