"""Roll-outs: decides whether a caller is in a share of all callers, the same on each request and server.

The rule is part of the protocol (docs/protocol/http.md, Bootstrap DNS): the caller's address seeds Go's PCG generator,
and its first number decides. Pure except for the random number for loopback callers.
"""

import random
from typing import Final

from derper.addresses import IPAddress

_WORD: Final = (1 << 64) - 1
_STATE: Final = (1 << 128) - 1
_MULTIPLIER: Final = 0x2360ED051FC65DA44385DF649FCCF645
_INCREMENT: Final = 0x5851F42D4C957F2D14057B7EF767814F
_MIX: Final = 0xDA942042E4DD58B5
_MANTISSA: Final = 1 << 53

ALL_CALLERS: Final = 100


def is_inside(caller: IPAddress | None, percent: int) -> bool:
    """Return whether a caller is in the first `percent` percent; `None` is a caller with an invalid address."""
    if percent in (0, ALL_CALLERS):
        return percent == ALL_CALLERS
    if caller is None:
        return False
    if caller.is_loopback:
        return random.random() < 1 / 2  # noqa: S311  not a secret: loopback callers are tests
    return percent / 100 > fraction(caller)


def fraction(caller: IPAddress) -> float:
    """Return the caller's position from 0 to 1."""
    return (first_number(caller) % _MANTISSA) / _MANTISSA


def first_number(caller: IPAddress) -> int:
    """Return the first 64 bits of the generator seeded with this address: PCG with DXSM output."""
    octets = caller.packed if caller.version == 6 else bytes(10) + b"\xff\xff" + caller.packed  # noqa: PLR2004  (IPv6)
    seed = int.from_bytes(octets[:8], "little") << 64 | int.from_bytes(octets[8:], "little")
    state = (seed * _MULTIPLIER + _INCREMENT) & _STATE
    high, low = state >> 64, state & _WORD
    high ^= high >> 32
    high = high * _MIX & _WORD
    high ^= high >> 48
    return high * (low | 1) & _WORD
