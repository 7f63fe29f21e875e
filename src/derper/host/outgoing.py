"""HTTP requests to other servers: user agent, limits for answers, and detection of our own shortages."""

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from aiohttp.client import DEFAULT_TIMEOUT

from derper._version import version
from derper.errors import NetworkError

_SHORTAGES: Final = frozenset({
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL,
    socket.EAI_MEMORY, socket.EAI_SYSTEM,
})  # fmt: skip
"""Errors that are not the other server's fault: descriptors, memory, or local ports are used up."""

USER_AGENT: Final = {"User-Agent": f"derper/{version()}"}
MAX_HEAD_LINE: Final = 1 << 20
MAX_HEAD_LINES: Final = 1_000
"""Limits for the head of an answer. aiohttp's own (8 kB, 128 lines) are lower than proxies send and Go reads."""


def session(
    connector: aiohttp.BaseConnector | None = None,
    *,
    headers: Mapping[str, str] = USER_AGENT,
    timeout: aiohttp.ClientTimeout = DEFAULT_TIMEOUT,
    traces: Sequence[aiohttp.TraceConfig] = (),
) -> aiohttp.ClientSession:
    """Return a session for requests to other servers: without cookies, with higher limits for heads."""
    return aiohttp.ClientSession(
        connector=connector,
        headers=headers,
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=list(traces),
        max_line_size=MAX_HEAD_LINE,
        max_field_size=MAX_HEAD_LINE,
        max_headers=MAX_HEAD_LINES,
    )


async def fetch(session: aiohttp.ClientSession, url: str, what: str, most: int, proxy: str | None = None) -> bytes:
    """Return the body of a GET, of bounded length; `what` begins the error's message.

    The request uses the `proxy`, if there is one.

    Raises:
        NetworkError: The status is not 200, or the body is too long.
        aiohttp.ClientError, OSError, ValueError: No answer, or an invalid URL.
    """
    async with session.get(url, proxy=proxy) as answer:
        if answer.status != HTTPStatus.OK:
            raise NetworkError(f"{what}: {answer.status} {answer.reason}")
        return await whole(answer, most)


async def whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return a body of at most `most` bytes.

    Raises:
        NetworkError: It is longer.
        aiohttp.ClientError: It is incomplete.
    """
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > most:
            raise NetworkError(f"an answer of more than {most:,} bytes")
    return bytes(body)


def is_own_shortage(error: BaseException) -> bool:
    """Return whether a request failed because this process or machine has run out of something, such as descriptors."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or (isinstance(seen, OSError) and seen.errno in _SHORTAGES):
            return True
        if isinstance(seen, socket.gaierror) and not _has_a_descriptor():
            return True  # a resolver without a descriptor reports that the name is unknown
        seen = seen.__cause__
    return False


def _has_a_descriptor() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


def connector(proxy: str | None, **options: Any) -> tuple[aiohttp.TCPConnector, str | None]:  # noqa: ANN401  aiohttp's options
    """Return a session's connector with aiohttp's options, and the proxy to pass with each request.

    A SOCKS proxy is part of the connector, an HTTP proxy of the request.
    """
    if proxy is None or not proxy.startswith("socks5"):
        return aiohttp.TCPConnector(**options), proxy
    # A late import: SOCKS proxies are rare.
    from derper.host.socks import SocksConnector  # noqa: PLC0415

    return SocksConnector.to(proxy, **options), None
