"""The debug pages of connected clients: `/debug/clients/` and `/debug/traffic` (docs/protocol/http.md, metrics.md).

Each shard collects its members in slices, so that a page over ten thousand clients delays no packet.
"""

import asyncio
import html
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from derper.dataplane import Conn, DataPlane, MemberSnapshot
from derper.server.debug.clients import BadQueryError, Page, Query
from derper.web import look

TRAFFIC_SECONDS: Final = 2.0
"""Interval between two reports of the stream."""
MOST_STREAMS: Final = 16
"""Maximum concurrent streams: each reads every connection in each interval."""

_INDEX: Final = """<h1>Clients</h1>
<p>{conns} connections of {keys} keys.</p>
<ul>
<li><a href="?all=1">All</a>, by <a href="?all=1&amp;sort=-rx">bytes received</a>,
<a href="?all=1&amp;sort=-tx">bytes sent</a> or <a href="?all=1&amp;sort=-connected">newest first</a></li>
<li>From an address: <code>?ip=192.0.2.1</code>, or a network: <code>?cidr=192.0.2.0/24</code></li>
<li>Of a key: <code>?key=nodekey:…</code>, or of an application: <code>?app=name</code></li>
</ul>
"""
_COLUMNS: Final = {
    "Key": "key",
    "No.": "conn",
    "Address": "ip",
    "Since (UTC)": "connected",
    "App": "",
    "Kind": "",
    "Packets received": "rxpkts",
    "Bytes received": "rx",
    "Packets sent": "txpkts",
    "Bytes sent": "tx",
}
"""The columns of the client table, and the order by which each sorts."""
_KINDS: Final = {
    "active": "active",
    "dup": "one of several",
    "home": "home",
    "meshPeer": "mesh peer",
    "notIdeal": "not ideal",
    "prober": "prober",
}


class MemberPages:
    """The pages of one data plane. They return bodies; the caller checks access and adds headers."""

    def __init__(self, plane: DataPlane, headers: dict[str, str]) -> None:
        self._plane = plane
        self._headers = headers
        self._streams = 0

    async def clients(self, request: web.Request) -> web.Response:
        """Return the page of clients that the query selects."""
        try:
            query = Query.parse({name: request.query.getall(name) for name in request.query})
        except BadQueryError as error:
            return web.Response(status=400, text=f"{error}\n", headers=self._headers)
        if not query.filter:
            return self._index(as_json=query.as_json)
        now, members = datetime.now(UTC), await self._plane.members()
        page = await asyncio.to_thread(query.select, members)
        if query.as_json:
            return self._json(answer_in_json(query, page, now))
        return self._html(_table(query, page, now))

    def _index(self, *, as_json: bool) -> web.Response:
        table_counts = self._plane.table_counts()
        if as_json:
            return self._json(f'{{"conns":{table_counts.connections},"keys":{table_counts.keys_local}}}\n')
        return self._html(_INDEX.format(conns=f"{table_counts.connections:,}", keys=f"{table_counts.keys_local:,}"))

    async def traffic(self, request: web.Request) -> web.StreamResponse:
        """Send every two seconds the connections whose byte counts changed, until the client disconnects."""
        if self._streams >= MOST_STREAMS:
            return web.Response(status=503, text=f"{MOST_STREAMS} streams are open already\n", headers=self._headers)
        response = web.StreamResponse(headers={**self._headers, "Content-Type": "text/plain; charset=utf-8"})
        self._streams += 1
        try:
            await response.prepare(request)
            before: dict[Conn, int] = {}
            while True:
                members = await self._plane.members()
                await response.write("".join(_moved(members, before)).encode() + b"\n")
                before = {member.conn: member.sent + member.received for member in members}
                await asyncio.sleep(TRAFFIC_SECONDS)
        except ConnectionError:
            return response  # the client disconnected
        finally:
            self._streams -= 1

    def _json(self, text: str) -> web.Response:
        return web.Response(body=text.encode(), content_type="application/json", headers=self._headers)

    def _html(self, body: str) -> web.Response:
        text = look.page("DERP relay, clients", f'<section class="card">\n{body}</section>\n', style="/debug/look.css")
        return web.Response(text=text, content_type="text/html", headers=self._headers)


def _moved(members: Iterable[MemberSnapshot], before: dict[Conn, int]) -> Iterator[str]:
    for member in members:
        if member.sent + member.received > before.get(member.conn, -1):
            line = {"Sent": member.sent, "Recv": member.received, "Key": str(member.peer_present().peer)}
            line |= {"UniqueSenders": member.senders} if member.senders else {}
            yield json.dumps(line, separators=(",", ":")) + "\n"


def answer_in_json(query: Query, page: Page, now: datetime) -> str:
    """Return a page as JSON in the Go server's layout."""
    members = {
        "query": query.title,
        "conns": page.connections,
        "keys": page.keys,
        "remaining": page.remaining,
        **({"next": page.next} if page.next else {}),
        "clients": [client.as_json(now) for client in page.clients],
    }
    text = json.dumps(members, indent="\t", ensure_ascii=False) + "\n"
    # Escaped as by the Go server, so that the text can be embedded in a page.
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _table(query: Query, page: Page, now: datetime) -> str:
    heads = {title: _sorted_by(query, sort, title) if sort else title for title, sort in _COLUMNS.items()}
    rows = [_cells(client.as_json(now)) for client in page.clients]
    more = f'<p><a href="{html.escape(page.next)}">{page.remaining:,} more</a></p>\n' if page.next else ""
    found = f"{page.connections:,} connections of {page.keys:,} keys"
    table = look.table(heads, rows, empty="No such client is connected.")
    return f"<h1>{html.escape(query.title)}</h1>\n<p>{found}.</p>\n{table}\n{more}"


def _sorted_by(query: Query, sort: str, title: str) -> str:
    # Numbers are sorted from the largest.
    is_number = sort not in ("key", "ip")
    descending = not query.descending if query.sort == sort else is_number
    return f'<a href="{html.escape(query.sorted_by(f"-{sort}" if descending else sort))}">{title}</a>'


def _cells(client: Mapping[str, object]) -> tuple[str, ...]:
    since = str(client["connectedAt"])[: len("2026-01-02T03:04:05")].replace("T", " ")
    kinds = ", ".join(text for at, text in _KINDS.items() if client[at])
    numbers = (f"{client[name]:,}" for name in ("rxPkts", "rxBytes", "txPkts", "txBytes"))
    key, remote, app = (html.escape(str(client[name])) for name in ("key", "remote", "appName"))
    return (f"<code>{key}</code>", str(client["connNum"]), remote, since, app, kinds, *numbers)
