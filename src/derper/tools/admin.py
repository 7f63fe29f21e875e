"""A client of a running server's admin listener: pages as JSON, and actions."""

import json
import os
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from derper import log
from derper.credentials.tokens import read_token
from derper.errors import ConfigError, NetworkError
from derper.host import outgoing

MAX_BYTES: Final = 16_000_000
_SECONDS: Final = 30.0


class AdminClient:
    """A client of the address in the server's `-admin`.

    Args:
        place: `unix:PATH`, `unix` for the socket in $RUNTIME_DIRECTORY or /run/derper, or `host:port`.
        token_file: The server's `-admin-token-file`, which changes over TCP require.
    """

    def __init__(self, place: str, token_file: Path | None = None) -> None:
        kind, _, path = place.partition(":")
        self._headers = dict(outgoing.USER_AGENT)
        if token_file is not None:
            self._headers["Authorization"] = f"Bearer {read_token(token_file).decode('utf-8', 'replace')}"
        self._socket = (Path(path) if path else _usual_socket()) if kind == "unix" else None
        self._token_file = token_file
        self._place = f"unix:{self._socket}" if self._socket else place
        self._base = "http://localhost" if self._socket else f"http://{place.removeprefix('http://')}"
        self._session: aiohttp.ClientSession | None = None

    async def get(self, path: str) -> Any:  # noqa: ANN401  any JSON
        """Return a page of JSON.

        Raises:
            NetworkError: The server is unreachable or rejects the request.
        """
        return (await self._ask("GET", path, {}))[1]

    async def do(self, action: str, **words: str) -> tuple[int, Any]:
        """Request an action; return the status and its JSON.

        Raises:
            NetworkError: The server is unreachable or rejects the request.
        """
        return await self._ask("POST", f"/{action}", words)

    async def _ask(self, method: str, path: str, words: dict[str, str]) -> tuple[int, Any]:
        if self._session is None:
            raise AssertionError("an AdminClient is used as a context")
        try:
            async with self._session.request(method, self._base + path, params=words or None) as answer:
                body = await outgoing.whole(answer, MAX_BYTES)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NetworkError(
                f"no server answers at {self._place} ({log.in_one_line(error)}); does it run with -admin there?"
            ) from error
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise NetworkError(f"the server at {self._place} answers 401 Unauthorized: {self._token_advice()}")
        try:
            return answer.status, json.loads(body)
        except ValueError:
            said = " ".join(body.decode("utf-8", "replace").split())[:200]
            raise NetworkError(f"{path} is answered with {answer.status}: {said}") from None

    def _token_advice(self) -> str:
        if self._token_file is None:
            return "name the server's -admin-token-file with --token-file FILE"
        return f"the token in {self._token_file} is not the one in the server's -admin-token-file"

    async def __aenter__(self) -> Self:
        connector = aiohttp.UnixConnector(str(self._socket)) if self._socket else aiohttp.TCPConnector()
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        self._session = outgoing.session(connector, timeout=timeout, headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()


def _usual_socket() -> Path:
    folders = os.environ.get("RUNTIME_DIRECTORY", "/run/derper").split(":")
    if not folders[0]:
        raise ConfigError("$RUNTIME_DIRECTORY is empty; name the socket, as in --admin unix:/run/derper/admin.sock")
    return Path(folders[0]) / "admin.sock"
