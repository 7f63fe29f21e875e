"""Text in Go's double quotes, as in its error messages; always one line."""

_ESCAPES = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
_ESCAPES |= {"\\": r"\\", '"': r"\""}
_UNDECODED = range(0xDC80, 0xDD00)  # bytes of a command line that are not UTF-8, as Python represents them
_FOUR_DIGITS = range(0x10000)


def quote(text: str) -> str:
    """Return a string in Go's double quotes; always one line."""
    return '"' + "".join(_ESCAPES.get(letter) or _printable(letter) for letter in text) + '"'


def _printable(letter: str) -> str:
    code = ord(letter)
    if letter.isprintable():
        return letter
    if letter.isascii():
        return f"\\x{code:02x}"
    if code in _UNDECODED:
        return f"\\x{code - _UNDECODED.start + 0x80:02x}"
    return f"\\u{code:04x}" if code in _FOUR_DIGITS else f"\\U{code:08x}"
