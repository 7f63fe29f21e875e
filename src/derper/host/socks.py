"""HTTP through a SOCKS5 proxy, for aiohttp. Only `outgoing.connector` imports this, and only if such a proxy is set.

The proxy resolves names, as in Go: they may resolve differently on its network, or not at all on this one.
"""

from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp_socks import ProxyConnector
from python_socks import ProxyError, parse_proxy_url

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


class SocksConnector(ProxyConnector):
    """Connects through a SOCKS5 proxy. Failures are an `aiohttp.ClientError` or an `OSError`."""

    @classmethod
    def to(cls, proxy: str, **options: Any) -> Self:  # noqa: ANN401  aiohttp's options
        """Return a connector for a `socks5h://` URL, which may contain a user and a password."""
        kind, host, port, user, password = parse_proxy_url(proxy.replace("socks5h:", "socks5:", 1))
        return cls(host=host, port=port, proxy_type=kind, username=user, password=password, rdns=True, **options)

    async def connect(
        self,
        req: "ClientRequest",
        traces: "list[Trace]",
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  aiohttp's interface
    ) -> "Connection":
        """Connect, and raise the library's own error as one of aiohttp's."""
        try:
            return await super().connect(req, traces, timeout)
        except ProxyError as error:
            raise aiohttp.ClientConnectionError(f"the SOCKS proxy refused: {error}") from error
