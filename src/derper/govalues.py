"""The spellings of flags and environment variables in Go's standard library.

Operators' unit files contain these spellings, so this module accepts and rejects the same texts as Go. Pure functions:
text in, value out, or `ValueError` with Go's two reasons, "parse error" and "value out of range".
"""

import math
import re

PARSE_ERROR = "parse error"
OUT_OF_RANGE = "value out of range"

INT_MAX = 2**63 - 1
INT_MIN = -(2**63)

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})

_INT = re.compile(
    r"(?P<sign>[+-]?)(?:"
    r"0[xX](?P<hex>(?:_?[0-9a-fA-F])+)|0[bB](?P<bin>(?:_?[01])+)|0[oO]?(?P<oct>(?:_?[0-7])+)|"
    r"(?P<dec>0|[1-9](?:_?[0-9])*))"
)
_BASES = {"hex": 16, "bin": 2, "oct": 8, "dec": 10}

_DECIMAL_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_HEX_FLOAT = re.compile(r"[+-]?0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)[pP][+-]?[0-9]+")
_INFINITE_FLOAT = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
_UNDERSCORE = re.compile(r"(?<=[0-9])_(?=[0-9])")
_HEX_UNDERSCORE = re.compile(r"(?<=[0-9a-fA-FxX])_(?=[0-9a-fA-F])")

_UNITS = {  # nanoseconds
    "ns": 1,
    "us": 1_000,
    "\N{MICRO SIGN}s": 1_000,
    "\N{GREEK SMALL LETTER MU}s": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DURATION_PART = re.compile(r"(?P<whole>[0-9]*)(?P<point>\.(?P<fraction>[0-9]*))?(?P<unit>[^0-9.]+)")


def parse_bool(text: str) -> bool:
    """Return the boolean of one of Go's twelve spellings; anything else, also "yes" and "", raises `ValueError`."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(PARSE_ERROR)


def parse_int(text: str) -> int:
    """Return a 64-bit integer: decimal, `0x`, `0o`, `0b` or leading-zero octal; `_` may separate digits."""
    match = _INT.fullmatch(text)
    if match is None:
        raise ValueError(PARSE_ERROR)
    value = next(int(match[name].replace("_", ""), base) for name, base in _BASES.items() if match[name])
    if match["sign"] == "-":
        value = -value
    if not INT_MIN <= value <= INT_MAX:
        raise ValueError(OUT_OF_RANGE)
    return value


def parse_float(text: str) -> float:
    """Return a decimal or hexadecimal number, `Inf`, `+Inf`, `-infinity` or `NaN`; reject one above a double."""
    if text.lower() == "nan":
        return math.nan
    if _INFINITE_FLOAT.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    if _DECIMAL_FLOAT.fullmatch(plain := _UNDERSCORE.sub("", text)):
        value = float(plain)
    elif _HEX_FLOAT.fullmatch(plain := _HEX_UNDERSCORE.sub("", text)):
        try:
            value = float.fromhex(plain)
        except OverflowError:
            value = math.inf
    else:
        raise ValueError(PARSE_ERROR)
    if math.isinf(value):
        raise ValueError(OUT_OF_RANGE)
    return value


def format_float(value: float) -> str:
    """Return a float as Go prints it: `+Inf`, `NaN`, whole numbers without a point."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value).removesuffix(".0")


def parse_duration(text: str) -> int:
    """Return the nanoseconds of Go's duration text: `300ms`, `1.5h`, `2h45m`, `-1us`, and `0` without a unit.

    Every error, also a value beyond 64 bits, is a "parse error", as in Go's flags.
    """
    digits = text[1:] if text[:1] in {"+", "-"} else text
    if digits == "0":
        return 0
    if not digits:
        raise ValueError(PARSE_ERROR)
    total, position = 0, 0
    while position < len(digits):
        match = _DURATION_PART.match(digits, position)
        if match is None or not (match["whole"] or match["fraction"]) or match["unit"] not in _UNITS:
            raise ValueError(PARSE_ERROR)
        unit = _UNITS[match["unit"]]
        total += int(match["whole"] or "0") * unit + _fraction_of(unit, match["fraction"] or "")
        position = match.end()
    total = -total if text[0] == "-" else total
    if not INT_MIN <= total <= INT_MAX:
        raise ValueError(PARSE_ERROR)
    return total


def _fraction_of(unit: int, digits: str) -> int:
    """Return `0.<digits>` of a unit in nanoseconds, rounded as in Go: as doubles, digits past 63 bits ignored."""
    value, scale = 0, 1.0
    for digit in digits:
        longer = value * 10 + int(digit)
        if longer > INT_MAX + 1:
            break
        value, scale = longer, scale * 10
    return int(value * (unit / scale))


def format_duration(nanoseconds: int) -> str:
    """Return a duration as Go prints it: `10m0s`, `1.5s`, `300ms`, `0s`; `parse_duration` is the exact inverse."""
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest == 0:
        return "0s"
    for limit, unit in ((1_000, "ns"), (1_000_000, "\N{MICRO SIGN}s"), (1_000_000_000, "ms")):
        if rest < limit:
            return f"{sign}{_decimal(rest, _UNITS[unit])}{unit}"
    minutes, rest = divmod(rest, _UNITS["m"])
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, _UNITS['s'])}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    if hours:
        text = f"{hours}h{text}"
    return sign + text


def _decimal(value: int, unit: int) -> str:
    """Return `value / unit` as an exact decimal without trailing zeros; `unit` is a power of ten."""
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    places = len(str(unit)) - 1
    return f"{whole}.{rest:0{places}d}".rstrip("0")
