"""The source of the DERP map: a URL, a file, or the tailscaled on this machine.

If the source is unreachable, the last map is used for ten minutes: a control server restarts more often than its map
changes. An invalid answer is a failure at once.
"""

import time
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import aiohttp
import structlog
from structlog.typing import FilteringBoundLogger

from derper import log
from derper.errors import NetworkError, ProtocolError
from derper.host import outgoing
from derper.prober.config import ProberConfig
from derper.prober.trust import Trust
from derper.protocol.derpmap import MAX_BYTES, DerpMap, Node

_log: FilteringBoundLogger = structlog.get_logger()

LOCAL: Final = "local"
KEPT_SECONDS: Final = 600.0

_LOCAL_PATH: Final = "/localapi/v0/derpmap"
_LOCAL_URL: Final = f"http://local-tailscaled.sock{_LOCAL_PATH}"


_clock = time.monotonic


class _UnreachableError(NetworkError):
    """The source did not answer."""


class MapSource:
    """The source of the map."""

    def __init__(self, config: ProberConfig, trust: Trust) -> None:
        self._url = config.map_source
        self._socket = config.tailscaled_socket
        self._proxies = config.proxies
        self._trust = trust
        self._last: DerpMap | None = None
        self._last_at = 0.0

    async def fetch(self) -> DerpMap:
        """Return the map; if the source is unreachable, return the last one, for ten minutes.

        Raises:
            NetworkError: The source is unreachable, or its answer is not a 200.
            ProtocolError: The map is invalid, or its nodes' names are not unique.
        """
        try:
            data = await self._read()
        except _UnreachableError as error:
            if self._last is None or _clock() - self._last_at > KEPT_SECONDS:
                raise
            _log.warning("cannot fetch the DERP map; using the last one", reason=log.in_one_line(error))
            return self._last
        try:
            derp_map = DerpMap.from_json(data)
        except ProtocolError as error:
            raise ProtocolError(f"decoding {self._url} JSON: {error}") from error
        _check_names(derp_map)
        self._last, self._last_at = derp_map, _clock()
        return derp_map

    async def _read(self) -> bytes:
        parts = urlsplit(self._url)
        if parts.scheme == "file":
            return _read_file(self._url, Path(unquote(parts.path)))
        if self._url != LOCAL and parts.scheme not in ("http", "https"):
            raise NetworkError(
                f'Get "{self._url}": unsupported protocol scheme "{parts.scheme}"; '
                f"give -derp-map an https:// or http:// URL, {_as_file_url(self._url)}, or local"
            )
        url, proxy = self._url, None
        connector: aiohttp.BaseConnector
        if self._url == LOCAL:
            url, connector = _LOCAL_URL, aiohttp.UnixConnector(str(self._socket))
        else:
            connector, proxy = outgoing.connector(self._proxies.of(url), ssl=self._trust.context)
        try:
            async with outgoing.session(connector) as session:
                return await outgoing.fetch(session, url, f"fetching {self._url}", MAX_BYTES, proxy)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _UnreachableError(self._unreachable(error)) from error

    def _unreachable(self, error: Exception) -> str:
        reason = log.in_one_line(error)
        if self._url == LOCAL:
            return f"Failed to connect to local Tailscale daemon for {_LOCAL_PATH}; not running? Error: {reason}"
        return f'Get "{self._url}": {reason}'


def _as_file_url(text: str) -> str:
    """Return the file URL of a path; other texts unchanged."""
    path = Path(text)
    return path.resolve().as_uri() if "://" not in text and path.is_file() else "file:///path/to/map.json"


def _read_file(url: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NetworkError(f"fetching {url}: 404 Not Found") from None
    except OSError as error:
        raise NetworkError(f"fetching {url}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ProtocolError(f"fetching {url}: wanted a map of at most {MAX_BYTES:,} bytes, and more came")
    return data


def _check_names(derp_map: DerpMap) -> None:
    known: dict[str, Node] = {}
    for node in derp_map.nodes:
        if (other := known.setdefault(node.name, node)) is not node:
            raise ProtocolError(f"derpmap has duplicate nodes: {other} and {node}")
