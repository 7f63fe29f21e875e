"""What may be said of secrets: that they are set, and where they come from. Never more, in no log and on no page.

Whoever reads a secret names it here, once; what the log writes and the command line that a page shows go through
`redacted`. That is the second line of defence: the types of keys do not show them in the first place.
"""

import re
from typing import Final

_SHORTEST: Final = 8
"""Letters of a secret that is looked for; shorter ones would be found in any text."""
_PRIVATE_KEY: Final = re.compile(r"(privkey:)[0-9a-fA-F]+")
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s?#'\"]*@")
_QUERY: Final = re.compile(r"(://[^\s?'\"]*\?)[^\s'\"]+")

_known: Final[dict[str, str]] = {}  # the secret, and what is said instead


def conceal(secret: str, source: str) -> None:
    """Never say this from now on, but that it is set and comes from `source`: a file, a flag, a variable."""
    if len(secret) >= _SHORTEST:
        _known[secret] = f"set (from {source})"


def redacted(text: str) -> str:
    """Remove known secrets, private keys, and the user and query parts of URLs from a text."""
    for secret, instead in _known.items():
        if secret in text:
            text = text.replace(secret, instead)
    if ":" not in text:
        return text
    text = _PRIVATE_KEY.sub(r"\1(secret)", text)
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1(secret)", _CREDENTIALS.sub("(secret)@", text))
