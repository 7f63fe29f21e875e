"""JSON objects as the peers' parser reads them (Go's encoding/json).

Logins and DERP maps are written and read by Go programs, and what their parser lets pass is part of the wire: member
names compare without case, of two the last counts, null leaves a member as it is, bytes that are no UTF-8 become
replacement characters. What it refuses is refused here too: Python's NaN and Infinity, 2.0 for an integer.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from derper.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_INT64 = range(-(2**63), 2**63)
_INT64_CHARACTERS = 20
_MAX_VALUES = 1_000
"""Far more than any peer sends at login; each costs a microsecond of everybody's time."""
_SPACE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Number:
    """A number's letters as they stood: whether they make an integer depends on who asks."""

    letters: str


class _Members(list[tuple[str, object]]):
    """An object's members in their order, doubles and all."""


def _refuse(constant: str) -> NoReturn:
    raise ProtocolError(f"JSON: {constant} is no JSON value")


_decoder = json.JSONDecoder(object_pairs_hook=_Members, parse_int=Number, parse_float=Number, parse_constant=_refuse)


def members(data: bytes, *, max_values: int = _MAX_VALUES, ignore_rest: bool = False) -> Iterator[tuple[str, object]]:
    """Read one JSON object and give its members in order, names in small letters; `null` is the empty object.

    Args:
        data: the object, and perhaps white space.
        max_values: about how many values it may have, nested ones included.
        ignore_rest: do not look at what follows the object, as Go reads a stream.

    Raises:
        ProtocolError: not JSON, not an object, bytes after it, or nested deeper than the interpreter can follow.
    """
    for name, member in members_as_written(data, max_values=max_values, ignore_rest=ignore_rest):
        yield name.casefold(), member


def members_as_written(
    data: bytes, *, max_values: int = _MAX_VALUES, ignore_rest: bool = False
) -> Sequence[tuple[str, object]]:
    """Return what `members` yields, with the names as they are written, for errors and warnings that show them."""
    if data.count(b",") > max_values:
        raise ProtocolError(f"JSON: {len(data):,} bytes of more than {max_values:,} values")
    text = data.decode("utf-8", "replace")
    try:
        value = _decoder.raw_decode(text.lstrip(_SPACE))[0] if ignore_rest else _decoder.decode(text)
    except ValueError as error:
        raise ProtocolError(f"JSON: wanted one object, got {len(data):,} bytes that are not JSON") from error
    except RecursionError as error:
        raise ProtocolError(f"JSON: {len(data):,} bytes nested too deep") from error
    return entries(value, "")


def entries(value: object, name: str) -> Sequence[tuple[str, object]]:
    """Take a member that must be an object; gives its own members in order, names as written."""
    if value is None:
        return ()
    if not isinstance(value, _Members):
        raise ProtocolError(f"JSON: {name}: wanted an object" if name else "JSON: wanted an object, got another value")
    return value


def array(value: object, name: str) -> Sequence[object]:
    """Take a member that must be an array."""
    if value is None:
        return ()
    if not isinstance(value, list) or isinstance(value, _Members):
        raise ProtocolError(f"JSON: {name}: wanted an array")
    return value


def integer(value: object, name: str) -> int:
    """Take a member that must be an integer of 64 bits, written without point and exponent."""
    letters = value.letters if isinstance(value, Number) else ""
    if len(letters) <= _INT64_CHARACTERS and letters.removeprefix("-").isdigit():
        number = int(letters)
        if number in _INT64:
            return number
    raise ProtocolError(f"JSON: {name}: wanted an integer of 64 bits")


def real(value: object, name: str) -> float:
    """Take a member that must be a number, finite as a double."""
    number = float(value.letters) if isinstance(value, Number) else math.nan
    if not math.isfinite(number):
        raise ProtocolError(f"JSON: {name}: wanted a number")
    return number


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
