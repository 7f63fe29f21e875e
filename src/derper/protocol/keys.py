"""Node keys and the mesh key: 32 bytes each, and their text forms.

A `NodePublic` is a client's address, so it is a value: hashable, comparable, cheap. `NodePrivate` and `MeshKey` are
secrets: their `repr` and `str` never show them, and mesh keys are compared in constant time. Invalid text raises
`ProtocolError`; the caller names the flag or file. See docs/protocol/protocol.md, Key text forms.
"""

from __future__ import annotations

import base64
import hmac
import re
from dataclasses import dataclass
from typing import Self, TypeVar

from nacl.bindings import crypto_box_beforenm, crypto_scalarmult_base

from derper.errors import ProtocolError

KEY_LEN = 32
SHORTEST_PREFIX = 4
"""Minimum hex digits of a key prefix."""
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_ZERO = bytes(KEY_LEN)
_PREFIX_FORM = re.compile(rf"(?:nodekey:)?([0-9a-f]{{{SHORTEST_PREFIX},{2 * KEY_LEN}}})…?", re.ASCII)

# The points of Curve25519 whose order divides 8, as X25519 reads them (the top bit does not count). The shared secret
# with each of them is zero for any private key, so anyone can make a box "from" such a key.
_LOW_ORDER = frozenset(
    bytes.fromhex(point)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)


def _from_hex(digits: str, what: str) -> bytes:
    if len(digits) != 2 * KEY_LEN:
        raise ProtocolError(f"{what}: wanted {2 * KEY_LEN} hex digits, got {len(digits)} characters")
    # bytes.fromhex would accept spaces between digits.
    if not _HEX_DIGITS.issuperset(digits):
        raise ProtocolError(f"{what}: wanted {2 * KEY_LEN} hex digits, got another character")
    return bytes.fromhex(digits)


def _without_prefix(text: str, prefix: str, what: str) -> str:
    if not text.startswith(prefix):
        raise ProtocolError(f"{what}: wanted the prefix {prefix!r}, got {len(text)} characters without it")
    return text.removeprefix(prefix)


def node_key_prefix(text: str) -> str:
    """Return the hex digits of a node key or a prefix of one, with or without `nodekey:` and a final `…`.

    Raises:
        ProtocolError: The text is not a key or a prefix.
    """
    match = _PREFIX_FORM.fullmatch(text.lower())
    if match is None:
        raise ProtocolError(
            f"invalid node key: wanted nodekey: and {2 * KEY_LEN} hex digits, or the first {SHORTEST_PREFIX} or more"
        )
    return match[1]


_Key = TypeVar("_Key", "NodePublic", "NodePrivate", "MeshKey")


def of_type(wanted: type[_Key], key: object, name: str) -> _Key:
    """Return the key if it has the wanted type; `name` identifies the key in the error.

    Raises:
        TypeError: It has another type, such as its text form.
    """
    if not isinstance(key, wanted):
        hint = f"; {wanted.__name__}.from_text parses its text form" if isinstance(key, str) else ""
        raise TypeError(f"{name}: want a {wanted.__name__}, got {type(key).__name__}{hint}")
    return key


def _check_raw(raw: object) -> None:
    if not isinstance(raw, bytes):
        hint = "; from_text parses a key's text form" if isinstance(raw, str) else ""
        raise TypeError(f"a key: want {KEY_LEN} bytes, got {type(raw).__name__}{hint}")
    if len(raw) != KEY_LEN:
        raise ValueError(f"a key has {KEY_LEN} bytes, not {len(raw)}")


@dataclass(frozen=True, slots=True, repr=False)
class NodePublic:
    """A node's Curve25519 public key, which is its address at a relay.

    Attributes:
        raw: Exactly 32 bytes.

    Raises:
        TypeError: `raw` is not of the type bytes.
        ValueError: The key does not have 32 bytes.

    Source: docs/protocol/protocol.md, Key text forms.
    """

    raw: bytes

    PREFIX = "nodekey:"

    def __post_init__(self) -> None:
        _check_raw(self.raw)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parse a key's text form.

        Args:
            text: `nodekey:` and 64 hex digits, in upper or lower case, without white space.

        Raises:
            ProtocolError: The text is not a public key.
        """
        return cls(_from_hex(_without_prefix(text, cls.PREFIX, "node key"), "node key"))

    @classmethod
    def from_hex(cls, digits: str) -> Self:
        """Parse the form without a prefix, which HTTP headers and the meta certificate use.

        Args:
            digits: 64 hex digits, in upper or lower case.

        Raises:
            ProtocolError: The text is not 64 hex digits.
        """
        return cls(_from_hex(digits, "node key"))

    def hex(self) -> str:
        """Return the form without a prefix: 64 small hex digits."""
        return self.raw.hex()

    def short(self) -> str:
        """Return the form for logs, `[` 5 base64 characters `]`; empty for the zero key."""
        return "" if self.is_zero else f"[{base64.b64encode(self.raw)[:5].decode('ascii')}]"

    @property
    def is_zero(self) -> bool:
        """True for the all-zero key, which belongs to no node."""
        return self.raw == _ZERO

    @property
    def is_low_order(self) -> bool:
        """True if the key has a low order, like the zero key: a box from it proves nothing, so reject its login."""
        return self.raw[:-1] + bytes((self.raw[-1] & 0x7F,)) in _LOW_ORDER

    def __str__(self) -> str:
        return self.PREFIX + self.raw.hex()

    def __repr__(self) -> str:
        return f"NodePublic({self})"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class NodePrivate:
    """A node's private key. `repr` and `str` do not show it.

    Attributes:
        raw: Exactly 32 bytes, secret, as they were read; only `from_entropy` clamps them.

    Raises:
        TypeError: `raw` is not of the type bytes.
        ValueError: The key does not have 32 bytes.

    Source: docs/protocol/protocol.md, Key text forms; RFC 7748, section 5.
    """

    raw: bytes

    PREFIX = "privkey:"

    def __post_init__(self) -> None:
        _check_raw(self.raw)

    @classmethod
    def from_entropy(cls, entropy: bytes) -> Self:
        """Make a key from random bytes, clamped as RFC 7748 asks.

        Args:
            entropy: 32 random bytes, such as `os.urandom(32)`.

        Raises:
            ValueError: Not 32 bytes.
        """
        _check_raw(entropy)
        clamped = bytearray(entropy)
        clamped[0] &= 0xF8
        clamped[-1] = clamped[-1] & 0x7F | 0x40
        return cls(bytes(clamped))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parse a private key's text form.

        Args:
            text: `privkey:` and 64 hex digits, in upper or lower case, without white space.

        Raises:
            ProtocolError: The text is not a private key.
        """
        return cls(_from_hex(_without_prefix(text, cls.PREFIX, "private key"), "private key"))

    def to_text(self) -> str:
        """Return `privkey:` and 64 small hex digits: the secret itself, for a key file."""
        return self.PREFIX + self.raw.hex()

    @property
    def is_zero(self) -> bool:
        """True for the all-zero key, which has no public key."""
        return hmac.compare_digest(self.raw, _ZERO)

    def public(self) -> NodePublic:
        """Derive the public key: one scalar multiplication, about 40 µs.

        Raises:
            ValueError: The key is zero.
        """
        if self.is_zero:
            raise ValueError("the zero private key has no public key")
        return NodePublic(crypto_scalarmult_base(self.raw))

    def shared_with(self, theirs: NodePublic) -> bytes:
        """Return the 32 bytes of the shared key for boxes with `theirs`: one scalar multiplication."""
        return crypto_box_beforenm(theirs.raw, self.raw)

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self.raw, other.raw) if isinstance(other, NodePrivate) else NotImplemented

    def __hash__(self) -> int:
        return hash((NodePrivate, self.raw))

    def __repr__(self) -> str:
        return "NodePrivate(secret)"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class MeshKey:
    """The secret that the nodes of one region share. `repr` and `str` do not show it.

    Attributes:
        raw: Exactly 32 bytes, secret; all zeros mean that there is no key.

    Raises:
        TypeError: `raw` is not of the type bytes.
        ValueError: The key does not have 32 bytes.

    Source: docs/protocol/protocol.md, Login; docs/protocol/mesh.md.
    """

    raw: bytes

    def __post_init__(self) -> None:
        _check_raw(self.raw)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parse the contents of a mesh key file, a secret or an environment variable.

        Args:
            text: 64 hex digits, in upper or lower case; white space around them is ignored.

        Raises:
            ProtocolError: The text is not a mesh key.
        """
        return cls(_from_hex(text.strip(), "mesh key"))

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse the member of ClientInfo.

        Args:
            value: The JSON value: a string of 64 hex digits, neither empty nor null.

        Raises:
            ProtocolError: Any other value.
        """
        if not isinstance(value, str):
            raise ProtocolError("mesh key: wanted a JSON string of 64 hex digits, got another type")
        return cls(_from_hex(value, "mesh key"))

    def to_text(self) -> str:
        """Return 64 small hex digits: the secret itself, for ClientInfo."""
        return self.raw.hex()

    @property
    def is_zero(self) -> bool:
        """True for the all-zero key, which means that there is no key."""
        return hmac.compare_digest(self.raw, _ZERO)

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self.raw, other.raw) if isinstance(other, MeshKey) else NotImplemented

    def __hash__(self) -> int:
        return hash((MeshKey, self.raw))

    def __repr__(self) -> str:
        return "MeshKey(secret)"


def admits_to_mesh(ours: MeshKey | None, presented: MeshKey | None) -> bool:
    """Return whether a client with a mesh key is a mesh peer: both sides have the same key, and it is not zero.

    A client with a wrong mesh key is an ordinary client (docs/protocol/protocol.md, Login).
    """
    return ours is not None and presented is not None and not ours.is_zero and ours == presented
