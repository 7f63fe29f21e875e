"""`/debug/clients/` and `/debug/traffic`: the recorded answers of the reference, and live clients."""

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
from live import SECONDS, Client, Server, answer_to, config_of, connect, serving

from derper.dataplane import MemberSnapshot, Totals
from derper.protocol.frames import Endpoint, PeerFlags, PeerPresent, SendPacket
from derper.protocol.keys import MeshKey, NodePublic
from derper.server.debug.clients import BadQueryError, Query
from derper.server.debug.members import answer_in_json

RECORDED: Final = json.loads((Path(__file__).parents[2] / "vectors" / "http.json").read_text())
EXCHANGES: Final = [
    exchange
    for exchange in RECORDED["exchanges"]
    if exchange["server"] == "plain" and "request" in exchange and exchange["request"].startswith("GET /debug/clients")
]
LISTS: Final = [exchange for exchange in EXCHANGES if '"connNum"' in exchange.get("body", "")]
OTHERS: Final = [
    exchange for exchange in EXCHANGES if exchange not in LISTS and "three connections" not in exchange["name"]
]
TWICE: Final = NodePublic.from_hex("2fbe15d39b58545341ce95a40719d5a9abc25a2d0939919077f37e8ff9db083b")
NODE: Final = NodePublic.from_hex("81bcdd7da564077a87eaf5f5093a2ade5d2993981c9afddc71367d20133ea521")
NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOTHING: Final = Totals(0, 0, 0, 0)
VARIES: Final = ("remote", "connectedAt", "connected")


def member(  # noqa: PLR0913  the fields in which the recorded clients differ
    number: int,
    key: NodePublic,
    ip: str,
    *,
    flags: PeerFlags = PeerFlags.REGULAR,
    app: str = "",
    active: bool = True,
    home: bool = False,
    totals: Totals = NOTHING,
) -> MemberSnapshot:
    presence = PeerPresent(key, Endpoint(ip_address(ip), 4711), flags, app).encode()
    mesh = bool(flags & PeerFlags.MESH_PEER)
    return MemberSnapshot(
        number << 32, presence, mesh, 2, number, 1.5, active, key == TWICE, home, None, False, totals, 10, 20, 0
    )


THREE: Final = (
    member(16, TWICE, "192.0.2.99", home=True, totals=Totals(1, 2, 0, 0)),
    member(18, TWICE, "100.64.0.9", active=False),
    member(17, NODE, "::1", flags=PeerFlags.MESH_PEER | PeerFlags.NOT_IDEAL, totals=Totals(0, 0, 1, 2)),
)


def asked(target: str) -> Query:
    return Query.parse(parse_qs(urlsplit(target).query, keep_blank_values=True))


def comparable(body: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(body)
    for client in answer["clients"]:
        client["remote"] = client["remote"].rpartition(":")[0]
        for name in VARIES[1:]:
            del client[name]
    return answer


@pytest.mark.parametrize("exchange", LISTS, ids=lambda exchange: exchange["name"])
def test_the_recorded_clients_are_listed_as_by_the_reference(exchange: dict[str, Any]) -> None:
    query = asked(exchange["request"].split(" ")[1])
    body = answer_in_json(query, query.select(THREE), NOW)
    wanted = exchange["body"]
    assert comparable(body) == comparable(wanted)
    names = [line.partition(":")[0] for line in body.splitlines()]
    assert names == [line.partition(":")[0] for line in wanted.splitlines()], "laid out alike, in the same order"


@pytest.mark.parametrize("exchange", OTHERS, ids=lambda exchange: exchange["name"])
async def test_requests_without_a_list_are_answered_as_by_the_reference(
    exchange: dict[str, Any], tmp_path: Path
) -> None:
    async with serving(config_of(tmp_path)) as server:
        remote = RECORDED["clients"][exchange["from"]]
        status, headers, body = await answer_to(server.parts.http, exchange["request"].encode(), remote)
    assert status == int(exchange["status_line"].split()[1])
    wanted = dict(exchange["headers"])
    for name in ("Content-Type", "Content-Security-Policy", "X-Frame-Options", "Location"):
        assert headers.get(name) == wanted.get(name)
    if "body" in exchange:
        assert body.decode() == exchange["body"]


def pages(target: str, clients: list[MemberSnapshot]) -> Iterator[list[int]]:
    while True:
        page = asked(target).select(clients)
        yield [client.member.number for client in page.clients]
        if not page.next:
            assert page.remaining == 0
            return
        target = page.next


@pytest.mark.parametrize("sort", ["key", "ip", "conn", "connected", "rx", "tx", "rxpkts", "txpkts"])
@pytest.mark.parametrize("direction", ["", "-"])
def test_consecutive_pages_list_every_client_once_in_order(sort: str, direction: str) -> None:
    clients = [
        member(
            number,
            NodePublic(bytes([number % 7 + 1]) * 32),
            f"192.0.2.{number % 5}" if number % 3 else f"2001:db8::{number % 5}",
            totals=Totals(number % 4, number % 6, number % 5, number % 3),
        )
        for number in range(1, 60)
    ]
    seen = [number for page in pages(f"?all=1&limit=7&sort={direction}{sort}", clients) for number in page]
    whole = [number for page in pages(f"?all=1&limit=1000&sort={direction}{sort}", clients) for number in page]
    assert seen == whole
    assert sorted(seen) == list(range(1, 60))


def test_application_names_are_alternatives_and_narrow_the_other_filters() -> None:
    clients = [
        member(1, NODE, "192.0.2.1", app="a"),
        member(2, NODE, "192.0.2.1", app="b"),
        member(3, NODE, "192.0.2.2"),
    ]
    found = {
        query: [client.member.number for client in asked(query).select(clients).clients]
        for query in ("?app=a&app=b", "?app=", "?ip=192.0.2.1&app=b&app=", "?cidr=192.0.2.0/24&app=a")
    }
    assert found == {
        "?app=a&app=b": [1, 2],
        "?app=": [3],
        "?ip=192.0.2.1&app=b&app=": [2],
        "?cidr=192.0.2.0/24&app=a": [1],
    }


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("?all", "all clients"),
        ("?all=", "all clients"),
        ("?app=x&app=", "all clients with app x or (none)"),
        ("?cidr=127.0.0.1/8", "clients from 127.0.0.0/8"),
    ],
)
def test_the_title_describes_the_query(query: str, title: str) -> None:
    assert asked(query).title == title


@pytest.mark.parametrize("query", ["?sort=x", "?limit=x", "?after=x", "?ip="])
def test_the_index_page_has_no_order_and_no_pages(query: str) -> None:
    assert asked(query).filter == ""


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("?format=xml", "bad format"),
        ("?all=&ip=127.0.0.1", "only one of"),
        ("?all=1&sort=x", "bad sort"),
        ("?all=1&limit=0", "bad limit"),
        ("?all=1&limit=9223372036854775808", "bad limit"),
        ("?cidr=127.0.0.1/08", 'bad bits after slash: "08"'),
        ("?cidr=127.0.0.0/255.0.0.0", "bad bits after slash"),
        ("?cidr=127.0.0.1/33", "no network"),
    ],
)
def test_an_invalid_value_is_rejected_with_the_reason(query: str, why: str) -> None:
    with pytest.raises(BadQueryError, match=re.escape(why)):
        asked(query)


async def test_connected_clients_are_listed_with_their_traffic(tmp_path: Path) -> None:
    mesh_key = MeshKey(b"\x07" * 32)
    (tmp_path / "mesh.key").write_text(mesh_key.to_text())
    async with serving(config_of(tmp_path, "-mesh-psk-file", str(tmp_path / "mesh.key"))) as server:
        one, two = await Client.log_in(server), await Client.log_in(server, ideal_node="first")
        node = await Client.log_in(server, mesh_key=mesh_key)
        one.out.write(SendPacket(two.key, b"hello").encode())
        await two.next_frame()
        listed = await clients_of(server, "?all=1&sort=conn")
        assert [client["key"] for client in listed] == [str(one.key), str(two.key), str(node.key)]
        assert [(client["rxPkts"], client["rxBytes"]) for client in listed] == [(1, 5), (0, 0), (0, 0)]
        assert [(client["txPkts"], client["txBytes"]) for client in listed] == [(0, 0), (1, 5), (0, 0)]
        assert [(client["notIdeal"], client["meshPeer"]) for client in listed] == [
            (False, False), (True, False), (False, True),
        ]  # fmt: skip
        assert listed[0]["remote"].startswith("127.0.0.1:")
        assert 0 < listed[0]["connected"] < SECONDS * 1e9
        assert await clients_of(server, "?ip=192.0.2.1") == []
        assert json.loads((await server.get("/debug/clients/?format=json"))[1]) == {"conns": 3, "keys": 3}
        status, page = await server.get("/debug/clients/?all=1")
        assert status == 200
        assert page.count(str(one.key)) == 1


async def clients_of(server: Server, query: str) -> list[dict[str, Any]]:
    status, body = await server.get(f"/debug/clients/{query}&format=json")
    assert status == 200
    clients: list[dict[str, Any]] = json.loads(body)["clients"]
    return clients


async def test_traffic_lists_all_clients_first_and_then_those_with_new_bytes(tmp_path: Path) -> None:
    async with serving(config_of(tmp_path)) as server:
        idle, sender = await Client.log_in(server), await Client.log_in(server)
        stream, out = await connect(server)
        out.write(b"GET /debug/traffic HTTP/1.1\r\nHost: derp.example.test\r\n\r\n")
        head = await stream.readuntil(b"\r\n\r\n")
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        first = await a_round(stream)
        assert set(first) == {str(idle.key), str(sender.key)}
        assert all(entry["Sent"] > 0 < entry["Recv"] for entry in first.values())
        sender.out.write(SendPacket(sender.key, b"to myself").encode())
        await sender.next_frame()
        second = await a_round(stream)
        assert set(second) == {str(sender.key)}
        assert second[str(sender.key)]["Recv"] > first[str(sender.key)]["Recv"]
        assert list(second[str(sender.key)]) == ["Sent", "Recv", "Key"]


async def a_round(stream: asyncio.StreamReader) -> dict[str, dict[str, Any]]:
    """Read one chunk, which is one report: a line for each connection, then an empty line."""
    async with asyncio.timeout(SECONDS):
        length = int(await stream.readline(), 16)
        chunk = (await stream.readexactly(length + 2)).decode().removesuffix("\r\n")
    assert chunk.endswith("\n")
    entries = [json.loads(line) for line in chunk.splitlines() if line]
    return {entry["Key"]: entry for entry in entries}
