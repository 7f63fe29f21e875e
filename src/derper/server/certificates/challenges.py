"""Responses to HTTP-01 challenges, by token, for the plain HTTP listener.

ACME adds and removes them from its own thread. A response is not secret, but only a request with the right token gets
it, under any host name.
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
    """The key authorizations of the pending orders."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._answers: dict[str, str] = {}  # key authorization by token; changes are atomic, so no lock

    def put(self, token: str, key_authorization: str) -> None:
        """Add the response to a token; from any thread."""
        self._answers[token] = key_authorization

    def drop(self, token: str) -> None:
        """Remove the response to a token; from any thread."""
        self._answers.pop(token, None)

    def answer(self, host: str, token: str) -> str | Refusal:
        """Return the key authorization, or a refusal; `host` is the Host header as it was sent.

        The refusals have the Go server's wording, because monitoring may look for it.
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
