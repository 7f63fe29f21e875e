"""The rate limits of clients, read from a file (docs/protocol/relay.md, Rate limit; docs/limits.md).

The file has the Go server's format, with further members of ours. The data plane enforces the limits; with
`-announce-limits` ServerInfo also announces them to clients, which then limit themselves.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from derper.config import Relay
from derper.dataplane import DataPlane, Rate
from derper.errors import ConfigError, ProtocolError
from derper.goquote import quote
from derper.host import files
from derper.protocol import gojson
from derper.protocol.keys import NodePublic
from derper.protocol.login import NONCE_LEN, LoginBox, ServerInfo, server_info_frame
from derper.server.identity import Identity
from derper.server.life.reload import Facts

SMALLEST_BURST: Final = 65_568
"""Payload bytes of the largest frame; a smaller burst would never admit that frame."""
SMALLEST_ANNOUNCED_BURST: Final = SMALLEST_BURST + 5
"""The smallest burst to announce: a client also counts the header, and drops a packet over its burst."""

MAX_BYTES: Final = 16 << 20
MAX_VALUES: Final = 1_000_000
NOTICES_A_TURN: Final = 64
"""Clients notified of new limits per turn of the loop: each message has to be encrypted."""

_log: FilteringBoundLogger = structlog.get_logger()

MAX_WARNINGS: Final = 10
"""Warnings about one file; further members are not listed."""
_OF_CLIENTS: Final = ("PerClientRateLimitBytesPerSec", "PerClientRateBurstBytes")
_OF_ALL: Final = ("TotalRateLimitBytesPerSec", "TotalRateBurstBytes")
_OF_ONE: Final = ("RateLimitBytesPerSec", "RateBurstBytes")
_PER_KEY: Final = "PerKey"
_EXAMPLE: Final = '{"PerClientRateLimitBytesPerSec": 1000000, "PerClientRateBurstBytes": 2000000}'
_MAX_NUMBER: Final = (1 << 64) - 1
_MAX_ANNOUNCED: Final = (1 << 63) - 1  # the maximum of a client's integer


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits in a file, in payload bytes; `None` means unlimited."""

    default: Rate | None = None
    per_key: Mapping[NodePublic, Rate | None] = field(default_factory=dict)
    total: Rate | None = None
    warnings: tuple[str, ...] = ()  # about members without effect, one sentence each

    def of(self, key: NodePublic) -> Rate | None:
        """Return the limit of one client."""
        return self.per_key.get(key, self.default)


def load(path: Path) -> Limits:
    """Return the limits in a file.

    Raises:
        ConfigError: The file cannot be read, or is not JSON of the right shape.
    """
    data = files.read(path, "the rate limits", most=MAX_BYTES)
    try:
        written = gojson.members_as_written(data, max_values=MAX_VALUES)
        members = [(name.casefold(), value) for name, value in written]
        of_keys = [member for name, value in members if name == "perkey" for member in gojson.entries(value, _PER_KEY)]
        return Limits(
            default=_rate(members, *_OF_CLIENTS),
            per_key={NodePublic.from_text(key): _rate(_folded(key, value), *_OF_ONE) for key, value in of_keys},
            total=_rate(members, *_OF_ALL),
            warnings=_warnings(path, written, of_keys),
        )
    except ProtocolError as error:
        raise ConfigError(f"the rate limits {path} are not JSON like {_EXAMPLE}: {error}") from error


class ClientRates:
    """The limits in force, from a file or unlimited."""

    def __init__(self, plane: DataPlane, identity: Identity, relay: Relay) -> None:
        self._plane = plane
        self._identity = identity
        self._path = relay.rate_file
        self._announces = relay.announce_limits
        self._limits = Limits()

    def load(self) -> Facts:
        """Read the file and apply it; an invalid file raises `ConfigError` and changes nothing."""
        return self._put_in_force(self._limits if self._path is None else load(self._path))

    def _put_in_force(self, limits: Limits) -> Facts:
        for warning in limits.warnings:
            _log.warning(warning)
        self._limits = limits
        self._plane.limit_clients(limits.default, limits.per_key, limits.total)
        return {
            "client_bytes_per_second": limits.default and limits.default.per_second,
            "client_burst_bytes": limits.default and limits.default.burst,
            "keys_with_own_limits": len(limits.per_key),
            "total_bytes_per_second": limits.total and limits.total.per_second,
            "total_burst_bytes": limits.total and limits.total.burst,
        }

    async def reload(self) -> Facts:
        """Read the file in a thread, because its disk may be slow; apply it, and notify all clients."""
        limits = self._limits if self._path is None else await asyncio.to_thread(load, self._path)
        facts = self._put_in_force(limits)
        if self._announces:
            await self._notify_all()
        return facts

    def server_info(self, key: NodePublic) -> ServerInfo:
        """Return the limit that ServerInfo announces to a client."""
        limit = self._limits.of(key) if self._announces else None
        if limit is None:
            return ServerInfo()
        return ServerInfo(
            token_bucket_bytes_per_second=min(int(limit.per_second), _MAX_ANNOUNCED),
            token_bucket_bytes_burst=min(int(max(limit.burst, SMALLEST_ANNOUNCED_BURST)), _MAX_ANNOUNCED),
        )

    async def _notify_all(self) -> None:
        for number, member in enumerate(await self._plane.members(), 1):
            if member.is_mesh_peer:
                continue
            key = member.peer_present().peer
            box = LoginBox(self._identity.private, key)
            self._plane.write(member.conn, server_info_frame(self.server_info(key), box, os.urandom(NONCE_LEN)))
            if number % NOTICES_A_TURN == 0:
                await asyncio.sleep(0)


def _folded(key: str, value: object) -> list[tuple[str, object]]:
    return [(name.casefold(), member) for name, member in gojson.entries(value, key)]


def _warnings(path: Path, top: Sequence[tuple[str, object]], of_keys: Sequence[tuple[str, object]]) -> tuple[str, ...]:
    """Return a sentence for each member without effect: unknown ones, and a burst without a rate."""
    names = {name for name, _ in top}
    found = [*_unknown(names, (*_OF_CLIENTS, _PER_KEY, *_OF_ALL)), *_idle_bursts(top, _OF_CLIENTS, _OF_ALL)]
    names_of_keys = {name for key, value in of_keys for name, _ in gojson.entries(value, key)}
    found += _unknown(names_of_keys, _OF_ONE)
    found += {text: None for key, value in of_keys for text in _idle_bursts(gojson.entries(value, key), _OF_ONE)}
    return tuple(f"the rate limits {path}: {text}" for text in found[:MAX_WARNINGS])


def _unknown(names: Iterable[str], known: Sequence[str]) -> Iterator[str]:
    by_folded = {name.casefold(): name for name in known}
    for name in sorted(names):
        if name.casefold() not in by_folded:
            near = get_close_matches(name.casefold(), by_folded, n=1)
            advice = f"did you mean {by_folded[near[0]]}?" if near else f"known are {', '.join(known)}"
            yield f"unknown member {quote(name)} has no effect; {advice}"


def _idle_bursts(members: Sequence[tuple[str, object]], *pairs: tuple[str, str]) -> Iterator[str]:
    folded = [(name.casefold(), value) for name, value in members]
    for rate, burst in pairs:
        if _last(folded, burst) and not _last(folded, rate):
            yield f"{burst} has no effect; set {rate}, too"


def _rate(members: Iterable[tuple[str, object]], rate_name: str, burst_name: str) -> Rate | None:
    """Return the limit from two members; if a name occurs more than once, its last value counts."""
    rate, burst = _last(members, rate_name), _last(members, burst_name)
    return Rate(float(rate), float(max(burst, SMALLEST_BURST))) if rate else None


def _last(members: Iterable[tuple[str, object]], name: str) -> int:
    """Return the number in the last member with this name; 0 without one."""
    found = [_whole(value, name) for member, value in members if member == name.casefold() and value is not None]
    return found[-1] if found else 0


def _whole(value: object, name: str) -> int:
    letters = value.letters if isinstance(value, gojson.Number) else ""
    if letters.isdigit() and len(letters) <= len(str(_MAX_NUMBER)) and int(letters) <= _MAX_NUMBER:
        return int(letters)
    raise ProtocolError(f"JSON: {name}: wanted a whole number, not negative")
