"""The rate limits of clients, as their file says them (docs/protocol/relay.md, Rate limit; docs/limits.md).

The file is the Go server's, with members of ours beside its own. What is in force the data plane holds to; with
`-announce-limits` clients are told, in ServerInfo, and then hold to it themselves.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from derper.config import Relay
from derper.dataplane import DataPlane, Rate
from derper.errors import ConfigError, ProtocolError
from derper.host import files
from derper.protocol import gojson
from derper.protocol.keys import NodePublic
from derper.protocol.login import NONCE_LEN, LoginBox, ServerInfo, server_info_frame
from derper.server.identity import Identity
from derper.server.life.reload import Facts

SMALLEST_BURST: Final = 65_568
"""Payload bytes of the biggest frame: with less, it could never pass."""
SMALLEST_TOLD_BURST: Final = SMALLEST_BURST + 5
"""A client counts the header, too, and drops for good what is over its burst."""

MAX_BYTES: Final = 16 << 20
MAX_VALUES: Final = 1_000_000
TOLD_A_TURN: Final = 64
"""Clients that are told of new limits before others get a say: each costs a box."""

_EXAMPLE: Final = '{"PerClientRateLimitBytesPerSec": 1000000, "PerClientRateBurstBytes": 2000000}'
_MAX_NUMBER: Final = (1 << 64) - 1
_MAX_TOLD: Final = (1 << 63) - 1  # what a client's integer takes


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file says, in payload bytes; `None` for no limit."""

    default: Rate | None = None
    per_key: Mapping[NodePublic, Rate | None] = field(default_factory=dict)
    total: Rate | None = None

    def of(self, key: NodePublic) -> Rate | None:
        """Give the limit of one client."""
        return self.per_key.get(key, self.default)


def load(path: Path) -> Limits:
    """Give the limits in a file.

    Raises:
        ConfigError: the file cannot be read, or is not JSON of that shape.
    """
    data = files.read(path, "the rate limits", most=MAX_BYTES)
    try:
        members = list(gojson.members(data, max_values=MAX_VALUES))
        keys = (member for name, value in members if name == "perkey" for member in gojson.entries(value, "PerKey"))
        return Limits(
            default=_rate(members, "PerClientRateLimitBytesPerSec", "PerClientRateBurstBytes"),
            per_key={NodePublic.from_text(key): _rate_of_one(key, value) for key, value in keys},
            total=_rate(members, "TotalRateLimitBytesPerSec", "TotalRateBurstBytes"),
        )
    except ProtocolError as error:
        raise ConfigError(f"the rate limits {path} are not JSON like {_EXAMPLE}: {error}") from error


class ClientRates:
    """The limits in force, from a file or none."""

    def __init__(self, plane: DataPlane, identity: Identity, relay: Relay) -> None:
        self._plane = plane
        self._identity = identity
        self._path = relay.rate_file
        self._announces = relay.announce_limits
        self._limits = Limits()

    def load(self) -> Facts:
        """Put what the file says in force; a file that cannot be is a `ConfigError`, and changes nothing."""
        return self._put_in_force(self._limits if self._path is None else load(self._path))

    def _put_in_force(self, limits: Limits) -> Facts:
        self._limits = limits
        self._plane.limit_clients(limits.default, limits.per_key, limits.total)
        return {
            "bytes_per_second": limits.default and limits.default.per_second,
            "burst": limits.default and limits.default.burst,
            "keys": len(limits.per_key),
            "total_bytes_per_second": limits.total and limits.total.per_second,
        }

    async def reload(self) -> Facts:
        """Read the file in a thread, as its disk may be slow; put it in force, and notify all clients."""
        limits = self._limits if self._path is None else await asyncio.to_thread(load, self._path)
        facts = self._put_in_force(limits)
        if self._announces:
            await self._tell_all()
        return facts

    def server_info(self, key: NodePublic) -> ServerInfo:
        """Say what a client is told of itself."""
        limit = self._limits.of(key) if self._announces else None
        if limit is None:
            return ServerInfo()
        return ServerInfo(
            token_bucket_bytes_per_second=min(int(limit.per_second), _MAX_TOLD),
            token_bucket_bytes_burst=min(int(max(limit.burst, SMALLEST_TOLD_BURST)), _MAX_TOLD),
        )

    async def _tell_all(self) -> None:
        for number, member in enumerate(await self._plane.members(), 1):
            if member.is_mesh_peer:
                continue
            key = member.who().peer
            box = LoginBox(self._identity.private, key)
            self._plane.write(member.conn, server_info_frame(self.server_info(key), box, os.urandom(NONCE_LEN)))
            if number % TOLD_A_TURN == 0:
                await asyncio.sleep(0)


def _rate_of_one(key: str, value: object) -> Rate | None:
    members = [(name.casefold(), member) for name, member in gojson.entries(value, key)]
    return _rate(members, "RateLimitBytesPerSec", "RateBurstBytes")


def _rate(members: Iterable[tuple[str, object]], rate_name: str, burst_name: str) -> Rate | None:
    """The limit that two members make; of several of one name the last counts."""
    rate = burst = 0
    for name, value in members:
        if name == rate_name.casefold() and value is not None:
            rate = _whole(value, rate_name)
        elif name == burst_name.casefold() and value is not None:
            burst = _whole(value, burst_name)
    return Rate(float(rate), float(max(burst, SMALLEST_BURST))) if rate else None


def _whole(value: object, name: str) -> int:
    letters = value.letters if isinstance(value, gojson.Number) else ""
    if letters.isdigit() and len(letters) <= len(str(_MAX_NUMBER)) and int(letters) <= _MAX_NUMBER:
        return int(letters)
    raise ProtocolError(f"JSON: {name}: wanted a whole number, not negative")
