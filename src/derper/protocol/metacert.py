"""The meta certificate, from which a TLS 1.3 client learns the server's key before the first DERP byte.

A server appends it to its chain; a client that finds it may ask for fast start. It proves nothing (the login's box
does). Only two fields count: its common name, `derpkey` and the key's 64 hex digits; and its serial number, the
protocol version. These 71 characters exceed X.520's 64, so the public interface of `cryptography` rejects them, and
parsing with it would import `socket`. So the DER is written and parsed here. See docs/protocol/protocol.md, Getting to
the first frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from derper.errors import ProtocolError
from derper.protocol.frames import PROTOCOL_VERSION
from derper.protocol.keys import NodePublic

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

COMMON_NAME_PREFIX = "derpkey"

_BOOLEAN, _INTEGER, _BIT_STRING, _OCTET_STRING, _OID = 0x01, 0x02, 0x03, 0x04, 0x06
_PRINTABLE_STRING, _UTC_TIME, _GENERALIZED_TIME = 0x13, 0x17, 0x18
_SEQUENCE, _SET, _VERSION, _EXTENSIONS = 0x30, 0x31, 0xA0, 0xA3
_OID_COMMON_NAME = bytes.fromhex("550403")
_OID_BASIC_CONSTRAINTS = bytes.fromhex("551d13")
_OID_ED25519 = bytes.fromhex("2b6570")
_X509_V3 = b"\x02"
_FIRST_GENERALIZED_YEAR = 2050  # RFC 5280, section 4.1.2.5
_LONG_FORM = 0x80
_MAX_LENGTH_BYTES = 4
_MAX_SERIAL = 0xFF


@dataclass(frozen=True, slots=True)
class MetaCertificate:
    """The contents of a meta certificate.

    Attributes:
        server_key: The server's public key.
        protocol_version: 0 to 255.

    Source: docs/protocol/protocol.md, Getting to the first frame.
    """

    server_key: NodePublic
    protocol_version: int

    @property
    def allows_fast_start(self) -> bool:
        """True if the key is usable; the zero key counts as unknown."""
        return not self.server_key.is_zero


def build(server_key: NodePublic, signer: Ed25519PrivateKey, not_before: datetime, not_after: datetime) -> bytes:
    """Return a server's meta certificate, in DER.

    Args:
        server_key: The DERP server's public key.
        signer: A key created for this certificate; no client checks the signature.
        not_before: The begin of its validity, with a timezone; the Go server uses 30 days ago.
        not_after: The end of its validity, 30 days ahead. A server that runs longer creates a new one.
    """
    algorithm = _der(_SEQUENCE, _der(_OID, _OID_ED25519))
    common_name = (COMMON_NAME_PREFIX + server_key.hex()).encode("ascii")
    attribute = _der(_SEQUENCE, _der(_OID, _OID_COMMON_NAME), _der(_PRINTABLE_STRING, common_name))
    name = _der(_SEQUENCE, _der(_SET, attribute))
    constraints = _der(
        _SEQUENCE,
        _der(_OID, _OID_BASIC_CONSTRAINTS),
        _der(_BOOLEAN, b"\xff"),  # critical
        _der(_OCTET_STRING, _der(_SEQUENCE)),
    )
    to_be_signed = _der(
        _SEQUENCE,
        _der(_VERSION, _der(_INTEGER, _X509_V3)),
        _der(_INTEGER, bytes((PROTOCOL_VERSION,))),
        algorithm,
        name,
        _der(_SEQUENCE, _time(not_before), _time(not_after)),
        name,
        _der(_SEQUENCE, algorithm, _bits(signer.public_key().public_bytes_raw())),
        _der(_EXTENSIONS, _der(_SEQUENCE, constraints)),
    )
    return _der(_SEQUENCE, to_be_signed, algorithm, _bits(signer.sign(to_be_signed)))


def find(chain: Iterable[bytes]) -> MetaCertificate | None:
    """Return the first valid meta certificate in a server's chain, DER in order; None if there is none.

    Invalid certificates, and invalid meta certificates, are skipped; dates are ignored.
    """
    for certificate in chain:
        try:
            serial, common_name = _serial_and_common_name(certificate)
            if common_name.startswith(COMMON_NAME_PREFIX) and 0 <= serial <= _MAX_SERIAL:
                return MetaCertificate(NodePublic.from_hex(common_name.removeprefix(COMMON_NAME_PREFIX)), serial)
        except ProtocolError:
            continue
    return None


def is_meta(certificate: bytes) -> bool:
    """Return whether a certificate in DER has a meta certificate's name; such a certificate is not part of a chain."""
    try:
        return _serial_and_common_name(certificate)[1].startswith(COMMON_NAME_PREFIX)
    except ProtocolError:
        return False


def _serial_and_common_name(certificate: bytes) -> tuple[int, str]:
    fields = _children(_child(_child(certificate, 0, _SEQUENCE), 0, _SEQUENCE))
    if fields and fields[0][0] == _VERSION:
        del fields[0]
    # The next fields are the serial number, signature algorithm, issuer, validity and subject.
    serial = int.from_bytes(_expect(fields, 0, _INTEGER), "big", signed=True)
    common_name = ""
    for _, relative_name in _children(_expect(fields, 4, _SEQUENCE)):
        for _, attribute in _children(relative_name):
            parts = _children(attribute)
            if _expect(parts, 0, _OID) == _OID_COMMON_NAME and len(parts) > 1:
                common_name = parts[1][1].decode("latin-1")
    return serial, common_name


def _children(data: bytes) -> list[tuple[int, bytes]]:
    """Return the elements in DER, (tag, content) each. Work and memory are bounded by the length of `data`."""
    children = []
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1] if at + 1 < len(data) else _LONG_FORM
        at += 2
        if length >= _LONG_FORM:
            size = length - _LONG_FORM
            if not 0 < size <= _MAX_LENGTH_BYTES:
                raise ProtocolError(f"DER length of {size} bytes, wanted 1 to {_MAX_LENGTH_BYTES}")
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise ProtocolError(f"DER element of {length:,} bytes, {max(len(data) - at, 0):,} left")
        children.append((tag, data[at : at + length]))
        at += length
    return children


def _child(data: bytes, index: int, tag: int) -> bytes:
    return _expect(_children(data), index, tag)


def _expect(elements: list[tuple[int, bytes]], index: int, tag: int) -> bytes:
    if index >= len(elements) or elements[index][0] != tag:
        raise ProtocolError(f"DER element {index}: wanted tag {tag:#04x}")
    return elements[index][1]


def _der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    length = len(content)
    if length < _LONG_FORM:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, _LONG_FORM | size)) + length.to_bytes(size, "big") + content


def _bits(content: bytes) -> bytes:
    return _der(_BIT_STRING, b"\0", content)  # no unused bits at the end


def _time(moment: datetime) -> bytes:
    if moment.tzinfo is None:
        raise ValueError("a date needs a time zone")
    moment = moment.astimezone(UTC)
    if moment.year < _FIRST_GENERALIZED_YEAR:
        return _der(_UTC_TIME, moment.strftime("%y%m%d%H%M%SZ").encode("ascii"))
    return _der(_GENERALIZED_TIME, moment.strftime("%Y%m%d%H%M%SZ").encode("ascii"))
