"""What may change while the server runs, read again on SIGHUP: each item whole or not at all, and said in the log.

An item is read where it belongs; here is only the round that is made, and what a changed configuration means.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TypeAlias

import structlog
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from derper.config import Config
from derper.errors import ConfigError

_log: FilteringBoundLogger = structlog.get_logger()

Facts: TypeAlias = Mapping[str, object]
"""What is in force now, for the log."""


@dataclass(frozen=True, slots=True)
class Reload:
    """One item. `again` reads it and puts it in force, or raises `ConfigError` and leaves the old one there."""

    what: str  # as in "the rate limits"
    again: Callable[[], Awaitable[Facts]]


async def reload_all(items: Iterable[Reload]) -> dict[str, str]:
    """Reload each item; one that fails does not keep the others from it. Give why those that failed did."""
    failed: dict[str, str] = {}
    for item in items:
        try:
            facts = await item.again()
        except ConfigError as error:
            failed[item.what] = str(error)
            _log.error("reload failed; the previous state stays in force", what=item.what, reason=str(error))
        else:
            _log.info("reloaded", what=item.what, **facts)
    return failed


def action(reload: Callable[[], Awaitable[Mapping[str, str]]]) -> web.RouteDef:
    """Return the admin listener's route for the same; it answers with the failures: `{"the rate limits": "why"}`."""

    async def answer(_request: web.Request) -> web.Response:
        failed = await reload()
        return web.json_response({"failed": failed}, status=500 if failed else 200)

    return web.post("/reload", answer)


def changed(old: Config, new: Config) -> list[str]:
    """Name the settings that differ, with the names of their groups, as in `tls.hostname`."""
    found = []
    for group in fields(Config):
        before, after = getattr(old, group.name), getattr(new, group.name)
        if before != after:
            members = [member.name for member in fields(before)] if is_dataclass(before) else []
            differing = [name for name in members if getattr(before, name) != getattr(after, name)]
            found += [f"{group.name}.{name}" for name in differing] or [group.name]
    return found
