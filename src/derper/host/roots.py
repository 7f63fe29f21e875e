"""The trusted roots of outgoing TLS: those of the configuration, or the system's."""

import re
import ssl
from pathlib import Path

from derper.errors import ConfigError
from derper.host.trusted import TrustedRoots

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def load(roots: TrustedRoots) -> list[bytes]:
    """Return the roots in DER.

    Raises:
        ConfigError: The configured file cannot be read.
    """
    if roots.file is not None:
        return _read(roots.file)
    system = ssl.get_default_verify_paths()
    folders = roots.directories or tuple(Path(folder) for folder in (system.capath,) if folder)
    if not roots.directories and system.cafile:
        return _read(Path(system.cafile))
    return [root for folder in folders for path in sorted(folder.glob("*")) if path.is_file() for root in _read(path)]


def context(roots: TrustedRoots) -> ssl.SSLContext:
    """Return the settings of a TLS client that trusts the roots, read once.

    Raises:
        ConfigError: The configured file cannot be read.
    """
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # As in Go, a configured certificate is trusted by itself, with any issuer.
    tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if found := b"".join(load(roots)):
        try:
            tls.load_verify_locations(cadata=found)
        except ssl.SSLError as error:
            place = roots.file or "SSL_CERT_DIR or the system's folder"
            raise ConfigError(f"a root certificate in {place} cannot be read ({error.reason}); take it out") from error
    return tls


def _read(path: Path) -> list[bytes]:
    try:
        text = path.read_text("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"the root certificates in {path} cannot be read: {error.strerror}") from error
    try:
        return [ssl.PEM_cert_to_DER_cert(block) for block in _CERTIFICATE.findall(text)]
    except ValueError as error:
        raise ConfigError(f"a root certificate in {path} cannot be read ({error}); take it out") from error
