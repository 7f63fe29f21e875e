"""The overview on `/debug/`: process, certificates, links, clients, current traffic, drops by reason.

`Overview` collects the values. The page contains the values of its request, then polls `/debug/live` for new ones. The
cost is the same for one client as for ten thousand.
"""

import html
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from derper._version import version
from derper.config import Config
from derper.dataplane import DataPlane
from derper.metrics import process
from derper.server.certificates.sources import Status
from derper.server.certificates.tls import Certificates
from derper.server.identity import Identity
from derper.server.mesh import LinkState, Mesh
from derper.web import look

_SOON: Final = timedelta(days=14)
_CHARTS: Final = (
    ("packets_in", "packets", "Packets received"),
    ("packets_out", "packets", "Packets sent"),
    ("bytes_in", "bytes", "Bytes received"),
    ("bytes_out", "bytes", "Bytes sent"),
)
_CHART: Final = (
    '<svg class="chart" viewBox="0 0 89 31" preserveAspectRatio="none" aria-hidden="true">'
    '<path class="area"></path><path class="line"></path></svg>'
)


@dataclass(frozen=True, slots=True)
class Overview:
    """The objects that the overview reads."""

    config: Config
    identity: Identity
    plane: DataPlane
    mesh: Mesh
    certificates: Certificates | None

    def live(self) -> dict[str, object]:
        """Return the live figures: `at` in seconds of a monotonic clock, values, and running totals."""
        counters, table_counts = self.plane.counters(), self.plane.table_counts()
        values: dict[str, object] = {
            "uptime": _uptime(),
            "connections": table_counts.connections,
            "keys": table_counts.keys_local,
            "keys_elsewhere": table_counts.keys_total - table_counts.keys_local,
            "home": counters["current_home_connections"],
            "watchers": table_counts.watchers,
            "duplicates": table_counts.duplicate_connections,
        }
        values |= {f"dropped {drops.reason} {drops.kind}": drops.packets for drops in self.plane.drops()}
        totals = {
            "packets_in": counters["packets_received_disco"] + counters["packets_received_other"],
            "packets_out": counters["packets_sent"],
            "bytes_in": counters["bytes_received"],
            "bytes_out": counters["bytes_sent"],
        }
        return {"at": time.monotonic(), "values": values, "counters": totals, "problems": self.problems()}

    def problems(self) -> list[str]:
        """Return the problems that keep clients from using this server, a line each; `derper top` shows them, too."""
        return [] if self.certificates is None else self.certificates.problems()

    def page(self, links: Iterable[tuple[str, str]], query: str) -> str:
        """Return the page with these further pages (address, title); `query` is appended to each address of ours."""
        now = self.live()
        values = now["values"]
        assert isinstance(values, dict)  # noqa: S101  created above
        body = [
            "<h1>DERP relay</h1>\n",
            f'<p class="faint">{html.escape(self.config.tls.hostname)} on {html.escape(socket.gethostname())}</p>\n',
            *(f'<p class="bad">{html.escape(problem)}</p>\n' for problem in self.problems()),
            '<div class="cards">\n',
            *(_chart(name, kind, title) for name, kind, title in _CHARTS),
            look.card("Server", self._facts()),
            look.card("Clients", _figures(values)),
            look.card("Pages", _list(f'<a href="{html.escape(at + query)}">{title}</a>' for at, title in links)),
        ]
        if self.certificates is not None:
            body.append(look.card("Certificates", _certificates(self.certificates.status()), wide=True))
        if self.mesh.links:
            body.append(look.card("Links to the region's other nodes", _links(self.mesh.links), wide=True))
        body += [look.card("Dropped packets", self._drops(), wide=True), "</div>\n"]
        return look.page(
            "DERP relay, debug",
            "".join(body),
            style=f"/debug/look.css{query}",
            script=f"/debug/live.js{query}",
            live=f"/debug/live{query}",
        )

    def _facts(self) -> str:
        key_text = str(self.identity.mesh_key is not None).lower()
        facts = {
            "Uptime": f'<span data-value="uptime">{_uptime()}</span>',
            "Version": html.escape(version()),
            "Machine": html.escape(socket.gethostname()),
            "TLS hostname": html.escape(self.config.tls.hostname),
            "Mesh key": key_text,
        }
        own = f'<span class="mono">{self.identity.public}</span>'
        return _list([*(f"<b>{name}:</b> {value}" for name, value in facts.items()), f"Public key: {own}"])

    def _drops(self) -> str:
        rows = [
            (drops.reason, drops.kind, _value(f"dropped {drops.reason} {drops.kind}", drops.packets))
            for drops in self.plane.drops()
        ]
        return look.table(look.columns("Reason", "Kind", "Packets since the start"), rows, empty="none")


def _chart(name: str, kind: str, title: str) -> str:
    inside = f'<p class="figure"><span>measuring …</span></p>{_CHART}'
    return look.card(title, f'<div data-rate="{name}" data-kind="{kind}">{inside}</div>')


def _figures(values: dict[str, object]) -> str:
    titles = {
        "connections": "connections",
        "keys": "keys here",
        "keys_elsewhere": "keys at other nodes",
        "home": "have this node as their home",
        "watchers": "watchers",
        "duplicates": "connections of keys with several",
    }
    return _list(f"{_value(name, values[name])} {title}" for name, title in titles.items())


def _value(name: str, value: object) -> str:
    shown = f"{value:,}" if isinstance(value, int) else html.escape(str(value))
    return f'<span data-value="{html.escape(name)}">{shown}</span>'


def _certificates(found: Iterable[Status]) -> str:
    now = datetime.now(UTC)
    rows = []
    for status in found:
        left = status.left(now)
        kind = "warn" if left < _SOON and status.renews is None else "good"
        state = f'<span class="{kind}">{left.days} days left</span>'
        if reason := "none yet" if status.ends is None else status.invalid(now):
            state = f'<span class="bad">{html.escape(reason)}</span>'
        ends = f"{status.ends:%Y-%m-%d %H:%M} UTC" if status.ends else ""
        renews = f"{status.renews:%Y-%m-%d %H:%M} UTC" if status.renews else "by hand"
        problem = f'<span class="bad">{html.escape(status.problem)}</span>' if status.problem else ""
        rows.append((html.escape(status.host), state, ends, renews, problem))
    return look.table(look.columns("Host", "State", "Ends", "Is renewed", "Last problem"), rows, empty="none yet")


def _links(links: dict[str, LinkState]) -> str:
    kinds = {LinkState.UP: "good", LinkState.OURSELVES: "faint", LinkState.DOWN: "bad", LinkState.DIALLING: "warn"}
    rows = [
        (f'<span class="mono">{html.escape(name)}</span>', f'<span class="{kinds[state]}">{state}</span>')
        for name, state in sorted(links.items())
    ]
    return look.table(look.columns("Node", "State"), rows, empty="none")


def _list(items: Iterable[str]) -> str:
    lines = "\n".join(f"<li>{item}</li>" for item in items)
    return f"<ul>\n{lines}\n</ul>"


def _uptime() -> str:
    return str(timedelta(seconds=int(process.uptime())))
