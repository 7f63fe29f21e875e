"""JSON objects as the peers' parser reads them (Go's encoding/json).

The login's JSON is written and read by Go programs, and what their parser lets pass is part of the wire: member names
compare without case, of two the last counts, null leaves a member as it is, bytes that are no UTF-8 become replacement
characters. What it refuses is refused here too: Python's NaN and Infinity, bytes after the value, 2.0 for an integer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from derper.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

_INT64 = range(-(2**63), 2**63)
_INT64_CHARACTERS = 20
_MAX_VALUES = 1_000
"""Far more than any peer sends; each costs a microsecond of everybody's time."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number's letters as they stood: whether they make an integer depends on who asks."""

    letters: str


class _Members(list[tuple[str, object]]):
    """An object's members in their order, doubles and all."""


def _refuse(constant: str) -> NoReturn:
    raise ProtocolError(f"JSON: {constant} is no JSON value")


_decoder = json.JSONDecoder(object_pairs_hook=_Members, parse_int=Number, parse_float=Number, parse_constant=_refuse)


def members(data: bytes) -> Iterator[tuple[str, object]]:
    """Read one JSON object and give its members in order, names in small letters; `null` is the empty object.

    Raises:
        ProtocolError: not JSON, not an object, bytes after it, or nested deeper than the interpreter can follow.
    """
    if data.count(b",") > _MAX_VALUES:
        raise ProtocolError(f"JSON: {len(data):,} bytes of more than {_MAX_VALUES:,} values")
    try:
        value = _decoder.decode(data.decode("utf-8", "replace"))
    except ValueError as error:
        raise ProtocolError(f"JSON: wanted one object, got {len(data):,} bytes that are not JSON") from error
    except RecursionError as error:
        raise ProtocolError(f"JSON: {len(data):,} bytes nested too deep") from error
    if value is None:
        return
    if not isinstance(value, _Members):
        raise ProtocolError("JSON: wanted an object, got another value")
    for name, member in value:
        yield name.casefold(), member


def integer(value: object, name: str) -> int:
    """Take a member that must be an integer of 64 bits, written without point and exponent."""
    letters = value.letters if isinstance(value, Number) else ""
    if len(letters) <= _INT64_CHARACTERS and letters.removeprefix("-").isdigit():
        number = int(letters)
        if number in _INT64:
            return number
    raise ProtocolError(f"JSON: {name}: wanted an integer of 64 bits")


def boolean(value: object, name: str) -> bool:
    """Take a member that must be true or false."""
    if not isinstance(value, bool):
        raise ProtocolError(f"JSON: {name}: wanted true or false")
    return value


def text(value: object, name: str) -> str:
    """Take a member that must be a string."""
    if not isinstance(value, str):
        raise ProtocolError(f"JSON: {name}: wanted a string")
    return value


def compact(value: dict[str, object]) -> bytes:
    """Write an object as Go does: no white space, and `<`, `>` and `&` escaped."""
    written = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        # These three occur in strings alone, so the text as a whole can be searched.
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written.encode("ascii")
