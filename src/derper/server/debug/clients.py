"""Queries for connected clients: parses a query, returns a page of clients (docs/protocol/http.md).

Pure: reads no socket and no clock. `Query.parse` parses a query, `Query.select` applies it to the data plane's members.
Errors and texts have the Go server's wording, because scripts read them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Final, Self, TypeAlias
from urllib.parse import urlencode

from derper.addresses import IPAddress
from derper.config import IPNetwork
from derper.dataplane import MemberSnapshot
from derper.errors import ProtocolError
from derper.goquote import quote
from derper.protocol.frames import Endpoint, PeerFlags
from derper.protocol.keys import NodePublic
from derper.web.access import unmapped

LIMIT: Final = 100
MOST: Final = 1000
_FILTERS: Final = ("all", "ip", "cidr", "key")
_SORTS: Final = ("key", "ip", "conn", "connected", "rx", "tx", "rxpkts", "txpkts")

Place: TypeAlias = tuple[int, int, int]
"""A client's position in an order: a rank (0 except for addresses), the value, and its number."""


class BadQueryError(ValueError):
    """The query is invalid; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Client:
    """One connection."""

    member: MemberSnapshot
    key: NodePublic
    remote: Endpoint
    flags: PeerFlags
    app_name: str

    @classmethod
    def of(cls, member: MemberSnapshot) -> Self:
        """Return the client of a snapshot."""
        present = member.peer_present()
        return cls(
            member, present.peer, present.endpoint or Endpoint(ip_address("::"), 0), present.flags, present.app_name
        )

    @property
    def address(self) -> str:
        """The client's address as `ip:port` or `[ip6]:port`."""
        ip, port = self.remote.ip, self.remote.port
        return f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"

    def as_json(self, now: datetime) -> dict[str, object]:
        """Return the client's JSON object, members in the Go server's order; `now` is the snapshot's time."""
        member, totals, age = self.member, self.member.totals, timedelta(seconds=self.member.age)
        return {
            "connNum": member.number,
            "key": str(self.key),
            "remote": self.address,
            "connectedAt": (now - age).isoformat().replace("+00:00", "Z"),
            "connected": age // timedelta(microseconds=1) * 1000,
            "active": member.is_active,
            "dup": member.is_duplicate,
            "disabled": False,
            "home": member.is_home,
            "meshPeer": member.is_mesh_peer,
            "notIdeal": bool(self.flags & PeerFlags.NOT_IDEAL),
            "prober": bool(self.flags & PeerFlags.PROBER),
            "version": member.version,
            "appName": self.app_name,
            "rxPkts": totals.packets_in,
            "rxBytes": totals.bytes_in,
            "txPkts": totals.packets_out,
            "txBytes": totals.bytes_out,
            "senders": member.senders,
        }


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the clients that a query selected."""

    connections: int  # selected
    keys: int  # distinct keys of these
    clients: Sequence[Client]  # on this page
    remaining: int  # connections on later pages
    next: str  # the query string of the next page, or ""


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query."""

    filter: str  # one of `all`, `ip`, `cidr`, `key`; or "": the index page
    networks: tuple[IPNetwork, ...]
    key: NodePublic | None
    apps: tuple[str, ...]
    sort: str
    descending: bool
    limit: int
    after: Place | None
    as_json: bool
    _given: tuple[tuple[str, str], ...]  # the parameters that the next page's query repeats

    @classmethod
    def parse(cls, given: Mapping[str, Sequence[str]]) -> Self:
        """Parse a query string, given as the values of each name.

        Raises:
            BadQueryError: A value is invalid.
        """
        first = {name: values[0] for name, values in given.items() if values}
        form = first.get("format") or "html"
        if form not in ("html", "json"):
            raise BadQueryError(f"bad format {quote(form)}; want json or html")
        filters = [name for name in _FILTERS if first.get(name) or (name == "all" and name in first)]
        if len(filters) > 1:
            raise BadQueryError("only one of all, ip, cidr, or key may be given")
        apps = tuple(given.get("app", ()))
        chosen = filters[0] if filters else "all" if apps else ""
        if not chosen:
            first = {"format": form} if "format" in first else {}  # the index page has no order and no pages
        order = first.get("sort") or "key"
        sort = order.removeprefix("-")
        if sort not in _SORTS:
            wanted = f"{', '.join(_SORTS[:-1])}, or {_SORTS[-1]}"
            raise BadQueryError(f"bad sort {quote(order)}; want {wanted}, optionally with a leading -")
        limit = _limit(first.get("limit", ""))
        repeated = [(name, first[name]) for name in filters] + [("app", app) for app in apps]
        repeated += [("limit", str(limit)), ("sort", order)] + ([("format", form)] if "format" in first else [])
        return cls(
            chosen,
            _networks(chosen, first),
            _key("key", first["key"]) if chosen == "key" else None,
            apps,
            sort,
            order.startswith("-"),
            limit,
            _after(sort, first, descending=order.startswith("-")),
            form == "json",
            tuple(repeated),
        )

    @property
    def title(self) -> str:
        """Return a description of the query."""
        match self.filter:
            case "key":
                words = f"connections for {self.key}"
            case "ip" | "cidr":
                network = self.networks[0]
                words = f"clients from {network.network_address if self.filter == 'ip' else network}"
            case _:
                words = "all clients"
        return f"{words} with app {' or '.join(app or '(none)' for app in self.apps)}" if self.apps else words

    def sorted_by(self, order: str) -> str:
        """Return the query string for the same clients in another order."""
        return f"?{urlencode(sorted([*(entry for entry in self._given if entry[0] != 'sort'), ('sort', order)]))}"

    def select(self, members: Iterable[MemberSnapshot]) -> Page:
        """Return the page of members that the query selects."""
        found = [client for client in map(Client.of, members) if self._matches(client)]
        placed = sorted(((self._place(client), client) for client in found), key=lambda entry: entry[0])
        if self.descending:
            placed.reverse()
        if self.after is not None:
            after = self.after
            placed = [entry for entry in placed if (entry[0] < after if self.descending else entry[0] > after)]
        shown, rest = placed[: self.limit], placed[self.limit :]
        return Page(
            len(found),
            len({client.key for client in found}),
            [client for _, client in shown],
            len(rest),
            self._next(shown[-1][1]) if rest else "",
        )

    def _matches(self, client: Client) -> bool:
        if self.apps and client.app_name not in self.apps:
            return False
        if self.key is not None:
            return client.key == self.key
        return not self.networks or any(client.remote.ip in network for network in self.networks)

    def _place(self, client: Client) -> Place:
        member, totals = client.member, client.member.totals
        values = {
            "key": (0, int.from_bytes(client.key.raw)),
            "ip": _rank(client.remote.ip),
            "conn": (0, member.number),
            "connected": (0, member.number),  # in the order of their logins
            "rx": (0, totals.bytes_in),
            "tx": (0, totals.bytes_out),
            "rxpkts": (0, totals.packets_in),
            "txpkts": (0, totals.packets_out),
        }
        return (*values[self.sort], member.number)

    def _next(self, last: Client) -> str:
        texts = {"key": str(last.key), "ip": str(last.remote.ip)}
        after = texts.get(self.sort) or str(self._place(last)[1])
        cursor = [("after", after), ("afterconn", str(last.member.number))]
        return f"?{urlencode(sorted([*cursor, *self._given]))}"


def _rank(ip: IPAddress) -> tuple[int, int]:
    return ip.version, int(ip)


def _limit(text: str) -> int:
    if not text:
        return LIMIT
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) < 1 << 63:
        raise BadQueryError(f"bad limit {quote(text)}")
    return min(int(text), MOST)


def _networks(chosen: str, first: Mapping[str, str]) -> tuple[IPNetwork, ...]:
    text = first.get(chosen, "")
    if chosen == "ip":
        try:
            return (ip_network(unmapped(ip_address(text))),)
        except ValueError:
            raise BadQueryError(f"bad ip {quote(text)}: ParseAddr({quote(text)}): unable to parse IP") from None
    if chosen == "cidr":
        _, slash, bits = text.rpartition("/")
        is_number = bits == "0" or (bits.isascii() and bits.isdecimal() and not bits.startswith("0"))
        problem = "no '/'" if not slash else "no network" if is_number else f"bad bits after slash: {quote(bits)}"
        try:
            return (ip_network(text if slash and is_number else "", strict=False),)
        except ValueError:
            where = f"netip.ParsePrefix({quote(text)})"
            raise BadQueryError(f"bad cidr {quote(text)}: {where}: {problem}") from None
    return ()


def _key(name: str, text: str) -> NodePublic:
    try:
        return NodePublic.from_text(text)
    except ProtocolError as error:
        is_untyped = not text.startswith("nodekey:")
        why = "key hex string doesn't have expected type prefix nodekey:" if is_untyped else str(error)
        raise BadQueryError(f"bad {name} {quote(text)}: {why}") from None


def _after(sort: str, first: Mapping[str, str], *, descending: bool) -> Place | None:
    text, number = first.get("after", ""), first.get("afterconn", "")
    if not text:
        return None
    try:
        match sort:
            case "key":
                value = (0, int.from_bytes(_key("after", text).raw))
            case "ip":
                value = _rank(unmapped(ip_address(text)))
            case _:
                value = (0, int(text))
    except ValueError as error:  # also for an invalid key
        why = str(error).partition(": ")[2] if sort == "key" else f"{quote(text)} is not one"
        raise BadQueryError(f"bad after {quote(text)} for sort by {sort}: {why}") from None
    if not number:
        # The position after the last client with this value.
        return (*value, -1 if descending else 1 << 64)
    if not (number.isascii() and number.isdecimal()):
        raise BadQueryError(f"bad afterconn {quote(number)}")
    return (*value, int(number))
