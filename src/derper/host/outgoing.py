"""What all our questions to other HTTP servers share: who asks, and that no answer is read without an end."""

from typing import Final

import aiohttp

from derper._version import version
from derper.errors import NetworkError

USER_AGENT: Final = {"User-Agent": f"derper/{version()}"}


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
