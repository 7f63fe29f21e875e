"""What all our questions to other HTTP servers share: who asks, and that no answer is read without an end."""

from http import HTTPStatus
from typing import Final

import aiohttp

from derper._version import version
from derper.errors import NetworkError

USER_AGENT: Final = {"User-Agent": f"derper/{version()}"}


async def fetch(session: aiohttp.ClientSession, url: str, what: str, most: int, proxy: str | None = None) -> bytes:
    """Give the body of at most so many bytes that a GET is answered with. `what` begins the sentence of an error.

    It is asked through the `proxy`, if there is one.

    Raises:
        NetworkError: the answer is another than 200, or longer.
        aiohttp.ClientError, OSError, ValueError: there is none, or the URL is none.
    """
    async with session.get(url, proxy=proxy) as answer:
        if answer.status != HTTPStatus.OK:
            raise NetworkError(f"{what}: {answer.status} {answer.reason}")
        return await whole(answer, most)


async def whole(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read a body of at most so many bytes.

    Raises:
        NetworkError: it has more.
        aiohttp.ClientError: it breaks off.
    """
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > most:
            raise NetworkError(f"an answer of more than {most:,} bytes")
    return bytes(body)
