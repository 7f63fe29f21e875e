"""Who moves how much through a server now: two looks at its list of clients, and what changed between them."""

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from derper.tools.admin import AdminClient

_PAGE: Final = "/debug/clients/?all=1&format=json&sort=-tx&limit=1000"
"""The thousand that were sent most; a page of everybody may be long."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One connection: totals, and rates a second since the look before."""

    key: str
    remote: str
    app_name: str
    bytes_in: int
    bytes_out: int
    in_rate: float = 0.0
    out_rate: float = 0.0
    packet_rate: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the rows as JSON for scripts."""
        return asdict(self)


class Watch:
    """Looks again and again.

    Attributes:
        problems: why clients cannot use the server, a line each; from the last look. An older server reports none.
    """

    def __init__(self, server: AdminClient) -> None:
        self._server = server
        self.problems: list[str] = []
        self._before: dict[int, dict[str, Any]] = {}
        self._then = 0.0

    async def look(self) -> list[Traffic]:
        """Return the connections, those that move most first.

        Raises:
            NetworkError: the server cannot be reached or refuses.
        """
        page = await self._server.get(_PAGE)
        self.problems = (await self._server.get("/debug/live")).get("problems", [])
        now = time.monotonic()
        found = {client["connNum"]: client for client in page["clients"]}
        seconds = max(now - self._then, 1e-3)
        traffic = [_traffic(client, self._before.get(number), seconds) for number, client in found.items()]
        self._before, self._then = found, now
        return sorted(traffic, key=lambda one: (one.in_rate + one.out_rate, one.bytes_in + one.bytes_out), reverse=True)


def _traffic(client: dict[str, Any], before: dict[str, Any] | None, seconds: float) -> Traffic:
    def rate(*names: str) -> float:
        return sum(client[name] - before[name] for name in names) / seconds if before else 0.0

    return Traffic(
        key=client["key"],
        remote=client["remote"],
        app_name=client["appName"],
        bytes_in=client["rxBytes"],
        bytes_out=client["txBytes"],
        in_rate=rate("rxBytes"),
        out_rate=rate("txBytes"),
        packet_rate=rate("rxPkts", "txPkts"),
    )
