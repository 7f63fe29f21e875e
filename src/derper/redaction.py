"""Hiding of secrets: logs and pages show that a secret is set and its source, never the secret.

Code that reads a secret registers it here. Log lines and command lines on pages pass through `redacted`. This is a
second line of defence: the types of keys do not show them.
"""

import re
from typing import Final

_SHORTEST: Final = 8
"""Minimum characters of a secret to search for; shorter ones would match in any text."""
_PRIVATE_KEY: Final = re.compile(r"(privkey:)[0-9a-fA-F]+")
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s?#'\"]*@")
_QUERY: Final = re.compile(r"(://[^\s?'\"]*\?)[^\s'\"]+")

_known: Final[dict[str, str]] = {}  # secret: replacement


def conceal(secret: str, source: str) -> None:
    """Hide this secret from now on; its replacement names the `source`: a file, a flag, a variable."""
    if len(secret) >= _SHORTEST:
        _known[secret] = f"set (from {source})"


def redacted(text: str) -> str:
    """Return a text without known secrets, private keys, and the user and query parts of URLs."""
    for secret, instead in _known.items():
        if secret in text:
            text = text.replace(secret, instead)
    if ":" not in text:
        return text
    text = _PRIVATE_KEY.sub(r"\1(secret)", text)
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1(secret)", _CREDENTIALS.sub("(secret)@", text))
