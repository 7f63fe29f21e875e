"""Secrets from a setec server, and their cache file (docs/protocol/cli.md, setec).

Used at start-up: the server waits for its secret before it serves. A cached secret is used without a request. The cache
has the Go server's format. An invalid cache is logged and treated as missing.
"""

import asyncio
import base64
import binascii
import json
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog
from structlog.typing import FilteringBoundLogger

from derper import log
from derper.config import SecretsServer
from derper.errors import ConfigError, NetworkError, ProtocolError
from derper.host import files, outgoing, roots, signals
from derper.host.trusted import TrustedRoots
from derper.protocol import gojson

_log: FilteringBoundLogger = structlog.get_logger()

FIRST_WAIT: Final = 0.001
LONGEST_WAIT: Final = 4.0
"""Maximum seconds between two attempts; the delay doubles."""
TRY_SECONDS: Final = 30.0
MAX_ANSWER: Final = 1 << 20
LOG_AGAIN_SECONDS: Final = 60.0
_WHAT: Final = "the secrets cache"


@dataclass(frozen=True, slots=True)
class Secret:
    """One version of a secret."""

    value: bytes
    version: int


def load(server: SecretsServer, trusted: TrustedRoots, patience: float | None = None) -> bytes:
    """Return the cached secret, or wait for the secrets server; not for use within a running loop.

    Args:
        server: Its address and its cache.
        trusted: The roots for TLS.
        patience: Timeout in seconds; None: wait for ever.

    Raises:
        ConfigError: The cache's path or the roots cannot be used, or the timeout has passed.
    """
    kept = _Cache(server)
    if (secret := kept.read()) is None:
        _log.info("asking for the secret", url=server.url, name=server.name)
        try:
            secret = signals.run(_wait_for(server, trusted, patience))
        except TimeoutError:
            raise ConfigError(f"the secrets server {server.url} gave no {server.name} in {patience:.0f} s") from None
        kept.write(secret)
    return secret.value


async def _wait_for(server: SecretsServer, trusted: TrustedRoots, patience: float | None) -> Secret:
    """Retry until there is an answer or `patience` has run out."""
    connector, proxy = outgoing.connector(server.proxy, ssl=roots.context(trusted), force_close=True)
    timeout = aiohttp.ClientTimeout(total=TRY_SECONDS)
    wait, logged, logged_at = FIRST_WAIT, "", 0.0
    async with asyncio.timeout(patience), outgoing.session(connector, timeout=timeout) as session:
        while True:
            try:
                return await _ask(session, server, proxy)
            except NetworkError as error:
                reason = log.in_one_line(error)
                if reason != logged or time.monotonic() > logged_at + LOG_AGAIN_SECONDS:
                    _log.warning("secret not available yet; retrying", url=server.url, name=server.name, reason=reason)
                    logged, logged_at = reason, time.monotonic()
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


async def _ask(session: aiohttp.ClientSession, server: SecretsServer, proxy: str | None) -> Secret:
    """Ask once; raises `NetworkError` if there is no secret, for any reason."""
    question = {"Name": server.name, "Version": 0, "UpdateIfChanged": False}
    headers = {
        "Content-Type": "application/json",
        "Sec-X-Tailscale-No-Browsers": "setec",
    }
    url = f"{server.url.removesuffix('/')}/api/get"
    try:
        async with session.post(url, data=gojson.compact(question), headers=headers, proxy=proxy) as response:
            body = await outgoing.whole(response, MAX_ANSWER)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        slow = isinstance(error, TimeoutError)
        raise NetworkError(f"no answer in {TRY_SECONDS:.0f} s" if slow else log.in_one_line(error)) from error
    if response.status != HTTPStatus.OK:
        text = " ".join(body[:300].decode("utf-8", "replace").split())
        raise NetworkError(f"{response.status} {response.reason}: {text}")
    try:
        return _secret_in(gojson.members(body))
    except ProtocolError as error:
        raise NetworkError(f"its answer is not a secret ({error})") from error


def _secret_in(members: Iterable[tuple[str, object]]) -> Secret:
    value, version = b"", 0
    for name, member in members:
        if name == "value" and member is not None:
            value = _decoded(gojson.text(member, "Value"))
        elif name == "version" and member is not None:
            version = gojson.integer(member, "Version")
    return Secret(value, version)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ProtocolError("Value: wanted base64") from error


class _Cache:
    """The cache file with the last secret. Entries of other programs in it are kept."""

    def __init__(self, server: SecretsServer) -> None:
        self._path = server.cache_file
        self._name = server.name
        self._entries: dict[str, Any] = {}
        if self._path is not None:
            _check_place(self._path)

    def read(self) -> Secret | None:
        """Return the cached secret, or None."""
        if self._path is None or not self._path.exists():
            return None
        try:
            self._entries = _entries_in(files.read(self._path, _WHAT))
            entry = self._entries.get(self._name)
            return None if entry is None else _parse_entry(entry)
        except (ConfigError, ProtocolError, ValueError, RecursionError) as error:
            _log.warning("the secrets cache is unusable", file=self._path, reason=log.in_one_line(error))
            return None

    def write(self, secret: Secret) -> None:
        """Write the secret, and keep all other entries."""
        if self._path is None:
            return
        value = {"Value": base64.b64encode(secret.value).decode("ascii"), "Version": secret.version}
        entry = {"secret": value, "lastAccess": str(int(time.time()))}
        try:
            files.write(self._path, gojson.compact(self._entries | {self._name: entry}), _WHAT)
        except ConfigError as error:
            _log.warning("cannot store the secret in the cache", reason=str(error))


def _check_place(path: Path) -> None:
    """Raise `ConfigError` before the first request if the cache cannot be written."""
    wanted = f"the secrets cache {path} (-secrets-cache-dir, which is a file whatever its name says)"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ConfigError(f"{wanted} exists and is not a regular file; name another place")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{wanted} cannot be used ({error.strerror}); name another place") from error


def _entries_in(data: bytes) -> dict[str, Any]:
    entries = json.loads(data)
    if not isinstance(entries, dict):
        raise ProtocolError("JSON: wanted an object")
    return entries


def _parse_entry(entry: object) -> Secret:
    """Return the secret in a cache entry."""
    found = entry.get("secret") if isinstance(entry, dict) else None
    value, version = (found.get("Value"), found.get("Version")) if isinstance(found, dict) else (None, None)
    if not isinstance(value, str) or not isinstance(version, int):
        raise ProtocolError('JSON: wanted {"secret": {"Value": base64, "Version": number}, "lastAccess": seconds}')
    return Secret(_decoded(value), version)
