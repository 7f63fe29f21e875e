"""The settings of all our aiohttp servers: which errors they log.

aiohttp logs a traceback for a request that it cannot parse, and for a connection that ends while it reads a body. Any
peer can cause these at will, so they are logged at the level debug. An error in a handler is a bug of ours and keeps
its traceback.
"""

import logging
from typing import Any, Final

from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError

_PEER_ERRORS: Final = (HttpProcessingError, ConnectionError, ClientPayloadError, web.RequestPayloadError)


def runner(application: web.Application, **settings: Any) -> web.AppRunner:  # noqa: ANN401  aiohttp's own settings
    """Return the runner of an application; `settings` are aiohttp's."""
    return web.AppRunner(application, handle_signals=False, shutdown_timeout=0.1, logger=_LOGGER, **settings)


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, _PEER_ERRORS):
        return True
    _LOGGER.debug("a peer broke off or sent a malformed request: %s", type(error).__name__)
    return False


_LOGGER: Final = logging.getLogger("derper.http")
_LOGGER.addFilter(_is_ours)
