"""Turns to ask one verifier: limits open questions, and orders the waiting clients (docs/admission.md).

A client that gets no turn is not checked, so it is never admitted: the lack of a turn is no evidence about the
verifier. Clients that a check knows go first. The others wait in one line per network, and the networks take turns. So
many logins from one network delay those of another by one turn at most.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from typing import Final, TypeAlias

from derper.server.admission.answers import ClientIdentity

WAIT_SECONDS: Final = 10.0
"""How long a client waits for a turn. Real clients wait longer for the end of their login, then retry."""
MOST_WAITING: Final = 8_192
_PREFIXES: Final = {4: 24, 6: 48}
"""The prefix length, in bits, that defines a client's network."""

_Line: TypeAlias = OrderedDict[asyncio.Future[None], None]


class NoTurnError(Exception):
    """The client got no turn; the message is the reason."""


class Turns:
    """The turns of one verifier, `most` at once; used from the loop's thread alone."""

    def __init__(self, most: int) -> None:
        self._free = most  # above 0 only if no client waits
        self._waiting = 0  # in all lines
        self._lines = OrderedDict[str, _Line]()  # by network, next one first; no line is empty
        self._known = _Line()

    @asynccontextmanager
    async def turn(self, client: ClientIdentity) -> AsyncIterator[None]:
        """Wait for a turn, and keep it for the `with` block.

        Raises:
            NoTurnError: Too many clients wait, or this client waited for `WAIT_SECONDS`.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait("" if client.was_known else network_of(client.ip))
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, network: str) -> None:
        self._make_room(network)
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        line = self._lines.setdefault(network, _Line()) if network else self._known
        line[turn] = None
        self._waiting += 1
        timer = loop.call_later(WAIT_SECONDS, _refuse, turn, f"no turn within {WAIT_SECONDS:g} s")
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:
                self._pass_on()  # the turn arrived at the moment of the cancellation
            raise
        finally:
            timer.cancel()
            self._leave(network, turn)

    def _make_room(self, network: str) -> None:
        """If the lines are full, refuse the newest client of the network with the most waiting clients.

        Raises:
            NoTurnError: The longest line is this client's own, or would not be longer than its own.
        """
        if self._waiting < MOST_WAITING:
            return
        reason = f"{self._waiting:,} other clients wait for a turn"
        longest = max(self._lines, key=lambda name: len(self._lines[name]), default="")
        if not longest or (network and len(self._lines[longest]) <= len(self._lines.get(network, ())) + 1):
            raise NoTurnError(reason)
        turn = next(reversed(self._lines[longest]))
        _refuse(turn, reason)
        self._leave(longest, turn)

    def _pass_on(self) -> None:
        """Pass a free turn on to the next client."""
        while self._waiting:
            network = "" if self._known else next(iter(self._lines))
            line = self._lines[network] if network else self._known
            turn = next(iter(line))
            is_waiting = not turn.done()
            if is_waiting:
                turn.set_result(None)
            self._leave(network, turn)
            if network in self._lines:
                self._lines.move_to_end(network)
            if is_waiting:
                return
        self._free += 1

    def _leave(self, network: str, turn: asyncio.Future[None]) -> None:
        """Remove a client from its line, if it is still there."""
        line = self._lines.get(network) if network else self._known
        if line is None or turn not in line:
            return
        del line[turn]
        self._waiting -= 1
        if network and not line:
            del self._lines[network]


def _refuse(turn: asyncio.Future[None], reason: str) -> None:
    if not turn.done():
        turn.set_exception(NoTurnError(reason))


def network_of(ip: str) -> str:
    """Return the network of an address: 24 bits of an IPv4 address, 48 of an IPv6 one."""
    address = ip_address(ip)
    return str(ip_network((address, _PREFIXES[address.version]), strict=False))
