"""A check by a tailscaled on this machine, over its LocalAPI (docs/protocol/admission.md, 1).

Each question opens a connection, which costs little over a unix socket. So a daemon that was restarted or replaced
never gets a question over its predecessor's connection.
"""

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from derper import log
from derper.errors import NetworkError, ProtocolError
from derper.host import outgoing
from derper.host.deadline import deadline
from derper.protocol import gojson
from derper.protocol.keys import NodePublic
from derper.server.admission.answers import KNOWN, Answer, Cause, ClientIdentity, not_asked, refused, unknown
from derper.server.admission.turns import NoTurnError, Turns

HOST: Final = "local-tailscaled.sock"
CAPABILITY_VERSION: Final = "148"
SECONDS: Final = 5.0
"""Deadline for one question, counted from its turn."""
IN_FLIGHT: Final = 64
MAX_ANSWER: Final = 1 << 20
MAX_VALUES: Final = 100_000
_TOO_OLD: Final = "tailscaled version is too old (out of sync with derper)"
_RUNNING: Final = "Running"
_MAX_LOGGED: Final = 300  # characters of an answer in the log


class NoSuchPeerError(Exception):
    """The daemon does not know the address or key in question."""


class Tailscaled:
    """One daemon, identified by its socket."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._turns = Turns(IN_FLIGHT)
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, client: ClientIdentity) -> Answer:
        """Return whether the daemon knows a client; without a turn, the client is not checked."""
        try:
            async with self._turns.turn(client):
                return await self._ask(client)
        except NoTurnError as error:
            return not_asked(str(error))

    async def _ask(self, client: ClientIdentity) -> Answer:
        try:
            async with deadline(SECONDS):
                await self._get(f"/localapi/v0/whois?addr=nodekey%3A{client.key.hex()}")
        except NoSuchPeerError:
            return await self._not_found(client)
        except TimeoutError:
            return unknown(f"failed to query local tailscaled status: {self._socket} did not answer in {SECONDS:.0f} s")
        except NetworkError as error:
            if outgoing.is_own_shortage(error):
                return not_asked(str(error))
            if "invalid 'addr' parameter" in str(error):
                return unknown(_TOO_OLD)
            return unknown(f"failed to query local tailscaled status: {error}")
        return KNOWN

    async def unreachable(self) -> str | None:
        """Return a sentence if nothing accepts connections on the socket; no question is asked."""
        try:
            async with deadline(SECONDS):
                _, out = await asyncio.open_unix_connection(self._socket)
        except TimeoutError:
            reason = f"no answer within {SECONDS:.0f} s"
        except OSError as error:
            reason = log.in_one_line(error)
        else:
            out.close()
            return None
        return (
            f"-verify-clients: the tailscaled at {self._socket} is not reachable ({reason}) and admits no client; "
            "start it, or name its socket with -socket"
        )

    async def prove(self) -> str | None:
        """Ask for the daemon's own key, which it knows; return the error, if any."""
        try:
            async with deadline(SECONDS):
                _, key = await self._status()
        except (NetworkError, NoSuchPeerError, TimeoutError) as error:
            return f"localClient.Status: {log.in_one_line(error)}"
        if key is None:
            return f"localClient.Status: the tailscaled at {self._socket} has no node key; log it in"
        answer = await self._ask(ClientIdentity(key, "::1"))
        return None if answer.admits else f"verifyClient for self nodekey: {answer.reason}"

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def _not_found(self, client: ClientIdentity) -> Answer:
        reason = f"peer {client.key} not authorized (not found in local tailscaled)"
        if client.was_known and (state := await self._state()) != _RUNNING:
            # A daemon that is starting knows no client yet.
            return unknown(f"{reason}: it is not running but in state {state}")
        return refused(Cause.TAILSCALED, reason, "the relay's tailnet does not know it")

    async def _state(self) -> str:
        try:
            async with deadline(SECONDS):
                return (await self._status())[0]
        except (NetworkError, NoSuchPeerError, TimeoutError) as error:
            return f"unknown ({log.in_one_line(error)})"

    async def _status(self) -> tuple[str, NodePublic | None]:
        """Return the daemon's state and its node key."""
        state, key = "", None
        status = await self._get("/localapi/v0/status?peers=false")
        try:
            for name, value in gojson.members(status, max_values=MAX_VALUES):
                if name == "backendstate" and value is not None:
                    state = gojson.text(value, "BackendState")
                elif name == "self":
                    members = {member.casefold(): text for member, text in gojson.entries(value, "Self")}
                    text = members.get("publickey")
                    key = None if text is None else NodePublic.from_text(gojson.text(text, "Self.PublicKey"))
        except ProtocolError as error:
            raise NetworkError(f"{self._socket} gave a status that cannot be read ({error})") from error
        return state, None if key is None or key.is_zero else key

    async def _get(self, path: str) -> bytes:
        """Return the JSON object at a path.

        Raises:
            NoSuchPeerError: 404.
            NetworkError: No object, for any other reason.
        """
        if self._session is None:
            connector = aiohttp.UnixConnector(str(self._socket), force_close=True, limit=0)
            # The caller sets the deadline of each question.
            self._session = outgoing.session(connector, timeout=aiohttp.ClientTimeout(total=None))
        url = URL(f"http://{HOST}{path}", encoded=True)
        try:
            async with self._session.get(
                url, headers={"Tailscale-Cap": CAPABILITY_VERSION}, allow_redirects=False
            ) as response:
                body = await outgoing.whole(response, MAX_ANSWER)
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise NetworkError(f"{self._socket}: {log.in_one_line(error)}") from error
        if response.status == HTTPStatus.NOT_FOUND:
            raise NoSuchPeerError
        if response.status != HTTPStatus.OK:
            raise NetworkError(_cause(response, body))
        try:
            list(gojson.members(body, max_values=MAX_VALUES))
        except ProtocolError as error:
            raise NetworkError(f"{self._socket} gave an answer that cannot be read ({error})") from error
        return body


def _cause(response: aiohttp.ClientResponse, body: bytes) -> str:
    """Return the daemon's error message, if it sent one: text, or JSON with the member `error`."""
    text = body.decode("utf-8", "replace").strip()
    try:
        texts = [value for name, value in gojson.members(body) if name == "error" and isinstance(value, str) and value]
    except ProtocolError:
        texts = []
    if texts:
        return texts[-1]
    if response.status == HTTPStatus.FORBIDDEN:
        return f"Access denied: {text[:_MAX_LOGGED]}"
    return f"{response.status} {response.reason}: {text[:_MAX_LOGGED]}"
