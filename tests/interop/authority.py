"""A certificate authority for a test's region: it issues its nodes' certificates, and they trust no other."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_DAY: Final = timedelta(days=1)
_LIFE: Final = timedelta(days=90)  # long enough that no server warns of its end


class Authority:
    """Issues certificates; `file` holds its own."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the region's authority")])
        own = self._unsigned(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=0))
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "authority.pem"
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue(
        self,
        folder: Path,
        host: str,
        life: timedelta = _LIFE,
        *extensions: x509.ExtensionType,
        begins: timedelta = -_DAY,
    ) -> int:
        """Write `host.crt` and `host.key` into the folder, for a DNS name or an IP address; return the serial number.

        The certificate is valid from `begins` to `life`, both from now on.
        """
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        builder = self._unsigned(
            subject, key.public_key(), x509.BasicConstraints(ca=False, path_length=None), life, begins
        )
        for extension in (x509.SubjectAlternativeName([_general_name(host)]), *extensions):
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        (folder / f"{host}.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{host}.key").write_bytes(private)
        return certificate.serial_number

    def key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """Return the extension that names the issuer's key."""
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())

    def revocation_list(self, *serials: int) -> bytes:
        """Return the list of these certificates, signed, in DER."""
        now = datetime.now(UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        builder = builder.last_update(now - _DAY).next_update(now + _DAY)
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - _DAY).build()
            builder = builder.add_revoked_certificate(revoked)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)

    def _unsigned(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        constraints: x509.BasicConstraints,
        life: timedelta = _LIFE,
        begins: timedelta = -_DAY,
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + life)
            .add_extension(constraints, critical=True)
        )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
