"""Reloading on SIGHUP: each item is reloaded whole or not at all, and the result is logged.

Each item is read in its own module. This module calls all of them, and compares configurations.
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
"""Facts about a reloaded item, for the log."""


@dataclass(frozen=True, slots=True)
class Reload:
    """One item; `again` reads and applies it, or raises `ConfigError` and leaves the old one in force."""

    what: str  # such as "the rate limits"
    again: Callable[[], Awaitable[Facts]]


async def reload_all(items: Iterable[Reload]) -> dict[str, str]:
    """Reload each item, also after one has failed; return the reasons of the failed ones."""
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
    """Return the admin listener's route for a reload; it answers with the failures: `{"the rate limits": "reason"}`."""

    async def answer(_request: web.Request) -> web.Response:
        failed = await reload()
        return web.json_response({"failed": failed}, status=500 if failed else 200)

    return web.post("/reload", answer)


def changed(old: Config, new: Config) -> list[str]:
    """Return the names of changed settings with their groups, such as `tls.hostname`."""
    found = []
    for group in fields(Config):
        before, after = getattr(old, group.name), getattr(new, group.name)
        if before != after:
            members = [member.name for member in fields(before)] if is_dataclass(before) else []
            differing = [name for name in members if getattr(before, name) != getattr(after, name)]
            found += [f"{group.name}.{name}" for name in differing] or [group.name]
    return found
