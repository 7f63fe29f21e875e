"""The security headers of every page (docs/protocol/http.md)."""

from typing import Final

_POLICY: Final = (
    "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'; "
    "block-all-mixed-content; object-src 'none'"
)
PUBLIC: Final = {
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
}
DEBUG: Final = PUBLIC | {"Content-Security-Policy": f"{_POLICY}; style-src 'self' 'unsafe-inline'"}
