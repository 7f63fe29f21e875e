"""Current traffic of a server's clients: the difference between two requests of its client list."""

import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from derper.tools.admin import AdminClient

_PAGE: Final = "/debug/clients/?all=1&format=json&sort=-tx&limit=1000"
"""The thousand connections with the most sent bytes; a page of all may be long."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One connection: totals, and rates a second since the last request."""

    key: str
    remote: str
    app_name: str
    bytes_in: int
    bytes_out: int
    in_rate: float = 0.0
    out_rate: float = 0.0
    packet_rate: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON for scripts."""
        return asdict(self)


class Watch:
    """Repeated requests of the client list.

    Attributes:
        problems: Why clients cannot use the server, a line each, from the last request. Older servers report none.
    """

    def __init__(self, server: AdminClient) -> None:
        self._server = server
        self.problems: list[str] = []
        self._before: dict[int, dict[str, Any]] = {}
        self._then = 0.0

    async def look(self) -> list[Traffic]:
        """Return the connections, those with the most traffic first.

        Raises:
            NetworkError: The server is unreachable or rejects the request.
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
