"""JSON objects as the peers' parser reads them (Go's encoding/json).

Go programs write and read logins and DERP maps, so the inputs that their parser accepts are part of the protocol.
Member names compare without case; of duplicates the last counts; null leaves a member unchanged; invalid UTF-8 becomes
replacement characters. Inputs that Go rejects are rejected here: NaN, Infinity, and 2.0 for an integer.
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
"""Far more than any peer sends at login; each value costs a microsecond of the only Python thread."""
_SPACE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Number:
    """The text of a number: the caller decides whether it must be an integer."""

    letters: str


class _Members(list[tuple[str, object]]):
    """An object's members in their order, including duplicates."""


def _refuse(constant: str) -> NoReturn:
    raise ProtocolError(f"JSON: {constant} is not a JSON value")


_decoder = json.JSONDecoder(object_pairs_hook=_Members, parse_int=Number, parse_float=Number, parse_constant=_refuse)


def members(data: bytes, *, max_values: int = _MAX_VALUES, ignore_rest: bool = False) -> Iterator[tuple[str, object]]:
    """Return the members of one JSON object in order, with lower-case names; `null` is an empty object.

    Args:
        data: The object, with optional white space.
        max_values: The approximate maximum of values, including nested ones.
        ignore_rest: Ignore bytes after the object, as Go does for a stream.

    Raises:
        ProtocolError: Not JSON, not an object, bytes after it, too many values, or nested too deeply.
    """
    for name, member in members_as_written(data, max_values=max_values, ignore_rest=ignore_rest):
        yield name.casefold(), member


def members_as_written(
    data: bytes, *, max_values: int = _MAX_VALUES, ignore_rest: bool = False
) -> Sequence[tuple[str, object]]:
    """Return the result of `members` with names as written, for errors and warnings."""
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
    """Return the members of a JSON value that must be an object, in order, with names as written."""
    if value is None:
        return ()
    if not isinstance(value, _Members):
        raise ProtocolError(f"JSON: {name}: wanted an object" if name else "JSON: wanted an object, got another value")
    return value


def array(value: object, name: str) -> Sequence[object]:
    """Return a JSON value that must be an array."""
    if value is None:
        return ()
    if not isinstance(value, list) or isinstance(value, _Members):
        raise ProtocolError(f"JSON: {name}: wanted an array")
    return value


def integer(value: object, name: str) -> int:
    """Return a JSON value that must be a 64-bit integer, written without point and exponent."""
    letters = value.letters if isinstance(value, Number) else ""
    if len(letters) <= _INT64_CHARACTERS and letters.removeprefix("-").isdigit():
        number = int(letters)
        if number in _INT64:
            return number
    raise ProtocolError(f"JSON: {name}: wanted an integer of 64 bits")


def real(value: object, name: str) -> float:
    """Return a JSON value that must be a number, finite as a double."""
    number = float(value.letters) if isinstance(value, Number) else math.nan
    if not math.isfinite(number):
        raise ProtocolError(f"JSON: {name}: wanted a number")
    return number


def boolean(value: object, name: str) -> bool:
    """Return a JSON value that must be true or false."""
    if not isinstance(value, bool):
        raise ProtocolError(f"JSON: {name}: wanted true or false")
    return value


def text(value: object, name: str) -> str:
    """Return a JSON value that must be a string."""
    if not isinstance(value, str):
        raise ProtocolError(f"JSON: {name}: wanted a string")
    return value


def compact(value: dict[str, object]) -> bytes:
    """Return an object as Go writes it: no white space, and `<`, `>` and `&` escaped."""
    written = json.dumps(value, separators=(",", ":"))
    for character in "<>&":
        # These three occur in strings only, so the whole text can be searched.
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written.encode("ascii")
