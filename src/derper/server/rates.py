"""The rate limit of clients, as its file says it (docs/protocol/relay.md, Rate limit)."""

import json
from pathlib import Path

from derper.dataplane import DataPlane, Rate
from derper.errors import ConfigError
from derper.server import files
from derper.server.reload import Facts

SMALLEST_BURST = 65_568
"""Payload bytes of the biggest frame: with less, it could never pass."""

_RATE = "PerClientRateLimitBytesPerSec"
_BURST = "PerClientRateBurstBytes"


def load(path: Path) -> Rate | None:
    """Give the limit in a file, in payload bytes; None: there is none.

    Raises:
        ConfigError: the file cannot be read, or is not JSON of that shape.
    """
    wanted = f'the rate limits {path} are not JSON like {{"{_RATE}": 1000000, "{_BURST}": 2000000}}'
    try:
        values = json.loads(files.read(path, "the rate limits"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{wanted}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(wanted)
    rate, burst = (values.get(name, 0) for name in (_RATE, _BURST))
    for name, value in ((_RATE, rate), (_BURST, burst)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigError(f"{wanted}: {name} has to be a whole number, not negative")
    return Rate(float(rate), float(max(burst, SMALLEST_BURST))) if rate else None


class ClientRates:
    """The limit in force, from a file or none."""

    def __init__(self, plane: DataPlane, path: Path | None) -> None:
        self._plane = plane
        self._path = path

    def load(self) -> Facts:
        """Put what the file says in force; a file that cannot be is a `ConfigError`, and changes nothing."""
        limit = None if self._path is None else load(self._path)
        self._plane.limit_clients(limit)
        return {"bytes_per_second": limit and limit.per_second, "burst": limit and limit.burst}

    async def reload(self) -> Facts:
        """Do it again."""
        return self.load()
