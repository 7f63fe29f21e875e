"""Certificates made by a test, for any host and any time."""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from derper.credentials.pem import Host


def make(host: Host, begins: datetime, life: timedelta) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """Return a key and a chain in PEM, as an order returns them."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = {role: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, role)]) for role in ("leaf", "authority")}
    subject = x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(names["leaf"])
        .issuer_name(names["authority"])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + life)
        .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    return key, certificate.public_bytes(Encoding.PEM)
