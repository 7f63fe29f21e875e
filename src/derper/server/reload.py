"""What may change while the server runs, read again on SIGHUP: each item whole or not at all, and said in the log."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import structlog
from structlog.typing import FilteringBoundLogger

from derper.errors import ConfigError

_log: FilteringBoundLogger = structlog.get_logger()

Facts: TypeAlias = Mapping[str, object]
"""What is in force now, for the log."""


@dataclass(frozen=True, slots=True)
class Reload:
    """One item. `again` reads it and puts it in force, or raises `ConfigError` and leaves the old one there."""

    what: str  # as in "the rate limits"
    again: Callable[[], Awaitable[Facts]]


async def reload_all(items: Iterable[Reload]) -> None:
    """Reload each item; one that fails does not keep the others from it."""
    nothing = True
    for item in items:
        nothing = False
        try:
            facts = await item.again()
        except ConfigError as error:
            _log.error("not reloaded, the old one stays", what=item.what, reason=str(error))
        else:
            _log.info("reloaded", what=item.what, **facts)
    if nothing:
        _log.info("nothing to reload")
