"""What a certificate authority asks for over plain HTTP: the answers to HTTP-01, by token.

ACME puts them here, from its own thread, and takes them away again; the plain HTTP listener reads them out. An answer
is no secret, but only who knows its token gets it, whatever name it is asked for under.
"""

import re
from ipaddress import ip_address
from typing import Final

from derper.config import Tls
from derper.protocol.upgrade import Refusal

PATH: Final = "/.well-known/acme-challenge/"

_DEFAULT_NAME: Final = "derp.tailscale.com"
_NAMES_OF_THE_DEFAULT: Final = re.compile(r"derp[^.]*\.tailscale\.com\.?")


class Challenges:
    """The key authorizations of the orders that are pending now."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._answers: dict[str, str] = {}  # key authorization by token; one item changes at once, so no lock

    def put(self, token: str, key_authorization: str) -> None:
        """Answer this token from now on; from any thread."""
        self._answers[token] = key_authorization

    def drop(self, token: str) -> None:
        """Know no answer to it any more; from any thread."""
        self._answers.pop(token, None)

    def answer(self, host: str, token: str) -> str | Refusal:
        """Return the key authorization, or what is said instead; `host` is the Host header as it was sent.

        The words of the refusals are those that monitoring of the Go server may look for.
        """
        key_authorization = self._answers.get(token)
        if key_authorization is not None:
            return key_authorization
        name = host.rpartition(":")[0] if re.search(r":[0-9]*$", host) else host
        if self._is_ours(name.strip("[]").lower()):
            return Refusal(404, "acme/autocert: certificate cache miss\n")
        if self._tls.hostname == _DEFAULT_NAME:
            return Refusal(403, "invalid hostname\n")
        quoted = ascii(name)[1:-1].replace('"', r"\"")
        return Refusal(403, f'acme/autocert: host "{quoted}" not configured in HostWhitelist\n')

    def _is_ours(self, name: str) -> bool:
        if self._tls.hostname == _DEFAULT_NAME:
            return _NAMES_OF_THE_DEFAULT.fullmatch(name) is not None
        return name == self._tls.hostname.lower() or (self._tls.acme.ip_certificates and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
