"""Bootstrap DNS (docs/protocol/http.md): addresses of the control plane for clients whose own resolver is broken.

Names are resolved at start and every ten minutes. If a name cannot be resolved, its old addresses stay. If a roll-out's
share cannot be read, the old share stays. Clients can use stale answers, but not missing ones.
"""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import structlog
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from derper.config import BootstrapName, Pages
from derper.errors import NetworkError
from derper.host.names import Names
from derper.metrics.exposition import Family, Metric, Type
from derper.server.http.rollout import ALL_CALLERS, is_inside
from derper.web import headers
from derper.web.access import remote_address

_log: FilteringBoundLogger = structlog.get_logger()

INTERVAL: Final = 600.0
ROUND: Final = 60.0
"""Deadline for one round over all names, in seconds."""
LOOK_UP: Final = 15.0
"""Deadline for one query, in seconds, so that a name without an answer does not use up the round."""
_AT_ONCE: Final = 16
_MOST_ASKED: Final = 500
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_COUNTED: Final = {
    "requests": "Requests to /bootstrap-dns",
    "published_hits": "Those for a published name that has addresses",
    "published_misses": "Those for a published name that has none",
    "unpublished_hits": "Those for an unpublished name that resolves, whether the caller is inside its roll-out or not",
    "unpublished_percent_misses": "Of these, callers outside of the roll-out",
    "unpublished_misses": "Those for a name that is not published, and that were not answered alone",
}
_ASKED: Final = Metric(
    "bootstrap_dns_queried_domains",
    Type.COUNTER,
    "Number of distinct names queried; resets to 0 when it exceeds 500",
)
_COUNTERS: Final = {
    name: Metric(f"bootstrap_dns_{name}", Type.COUNTER, help_text) for name, help_text in _COUNTED.items()
}
METRICS: Final = (*_COUNTERS.values(), _ASKED)

Answers = Mapping[str, list[str]]
"""Addresses by name."""


class BootstrapDns:
    """The names of one server, and the counts of their requests."""

    def __init__(self, pages: Pages, names: Callable[[], Names] = Names) -> None:
        self._names = names
        self._published_names = tuple(BootstrapName(name, None) for name in pages.bootstrap_names)
        self._unpublished_names = pages.unpublished_bootstrap_names
        self._published: Answers | None = None  # None before the first resolution
        self._unpublished: Answers = {}
        self._percents: dict[str, int] = {}  # of unpublished names
        self._counts = Counter[str]()
        self._asked: set[int] = set()  # hashes, because a name may be as long as a request
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start resolving, if there is any name."""
        if self._published_names or self._unpublished_names:
            self._task = asyncio.create_task(self._resolve_repeatedly())

    async def stop(self) -> None:
        """Stop resolving."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def routes(self) -> list[web.RouteDef]:
        """Return the page's route."""
        return [web.route("*", "/bootstrap-dns", self._show)]

    def families(self) -> Iterator[Family]:
        """Return the metric families of the requests."""
        for name, metric in _COUNTERS.items():
            yield Family(metric, self._counts[name])
        yield Family(_ASKED, len(self._asked))

    async def resolve(self) -> None:
        """Resolve all names once."""
        names = await asyncio.to_thread(self._names)  # hosts files may be long
        if self._published_names:
            self._published = await self._addresses(names, self._published_names, self._published or {})
        if self._unpublished_names:
            self._unpublished = await self._addresses(names, self._unpublished_names, self._unpublished)
            await self._read_percents(names)

    async def _resolve_repeatedly(self) -> None:
        while True:
            try:
                await self.resolve()
            except Exception:  # noqa: BLE001  a bug must not end later rounds
                _log.exception("internal error (a bug in derper); resolving the bootstrap names again later")
            await asyncio.sleep(INTERVAL)

    async def _addresses(self, names: Names, wanted: tuple[BootstrapName, ...], old: Answers) -> Answers:
        at_once = asyncio.Semaphore(_AT_ONCE)
        deadline = asyncio.get_running_loop().time() + ROUND

        async def of(name: str) -> list[str]:
            async with at_once:
                left = deadline - asyncio.get_running_loop().time()
                found = await names.addresses(name, min(LOOK_UP, left))
            # In random order: clients use the first address, which would always be of one family.
            random.shuffle(found)
            return list(map(str, found))

        answers: dict[str, list[str]] = {}
        found = await asyncio.gather(*(of(entry.name) for entry in wanted), return_exceptions=True)
        for entry, result in zip(wanted, found, strict=True):
            if isinstance(result, list):
                answers[entry.name] = result
            elif not isinstance(result, NetworkError):
                raise result
            else:
                _log.warning("cannot resolve a bootstrap name", name=entry.name, reason=str(result))
                if entry.name in old:
                    answers[entry.name] = old[entry.name]
        return answers

    async def _read_percents(self, names: Names) -> None:
        async def of(entry: BootstrapName) -> int:
            if entry.rollout_txt is None:
                return ALL_CALLERS
            try:
                return percent_in(await names.texts(entry.rollout_txt, LOOK_UP))
            except NetworkError as error:
                _log.warning("cannot read a roll-out; keeping the last percentage", name=entry.name, reason=str(error))
                return self._percents.get(entry.name, 0)

        percents = await asyncio.gather(*map(of, self._unpublished_names))
        self._percents = {entry.name: percent for entry, percent in zip(self._unpublished_names, percents, strict=True)}

    async def _show(self, request: web.Request) -> web.Response:
        self._counts["requests"] += 1
        answers = self._published
        if name := request.query.get("q", ""):
            answers = self._answer_for(name, request)
        # Tabs, and null if no name could be resolved, as in the Go server.
        body = "" if answers is None else json.dumps(dict(sorted(answers.items())) or None, indent="\t")
        shown = headers.PUBLIC | {"Content-Type": "application/json", "Connection": "close"}
        response = web.Response(body=body.encode(), headers=shown)
        response.force_close()  # each client asks once
        return response

    def _answer_for(self, name: str, request: web.Request) -> Answers | None:
        """Count a request for one name, and return its answer."""
        self._asked.add(hash(name))
        if len(self._asked) > _MOST_ASKED:
            self._asked.clear()
        if name in self._unpublished:
            self._counts["unpublished_hits"] += 1
            if is_inside(remote_address(request), self._percents.get(name, 0)):
                return {name: self._unpublished[name]}
            self._counts["unpublished_percent_misses"] += 1
        if name in (self._published or {}):
            self._counts["published_hits"] += 1
        else:  # also for a known name without addresses: the Go server counts it here, so "published_misses" stays 0
            self._counts["unpublished_misses"] += 1
        return self._published


def percent_in(texts: list[str]) -> int:
    """Return the share in TXT records: the last record that is an integer from 0 to 100, else 0."""
    numbers = [int(text) for text in texts if _NUMBER.fullmatch(text)]
    return next((number for number in reversed(numbers) if 0 <= number <= ALL_CALLERS), 0)
