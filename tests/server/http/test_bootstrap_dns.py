"""Bootstrap DNS against a real DNS server: the recorded answers, roll-outs to a share of clients, kept addresses."""

import ipaddress
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from dnsserver import dns_server, resolver_at
from live import answer_to, config_of, serving
from recorded import RECORDED, Exchange, called, differences, exchanges

from derper.errors import NetworkError
from derper.host.names import Names
from derper.server.http import bootstrap, pages
from derper.server.http.bootstrap import BootstrapDns, percent_in
from derper.server.http.connection import HttpServer
from derper.server.http.rollout import first_number, fraction, is_inside

ROLLOUT: Final = json.loads((Path(__file__).parents[2] / "vectors" / "bootstrap_dns_rollout.json").read_text())
RECORDS: Final = (
    "--host-record=pub1.example.test,192.0.2.101,2001:db8::101",
    "--host-record=pub1.example.test,192.0.2.102",
    "--host-record=pub2.example.test,192.0.2.103",
    "--host-record=unpub.example.test,198.51.100.5,2001:db8::5",
    *(f"--host-record={name}.example.test,198.51.100.{50 + at}"
      for at, name in enumerate(("half", "zero", "full", "bad", "over", "notxt", "two"))),
    "--txt-record=half-txt.example.test,50",
    "--txt-record=zero-txt.example.test,0",
    "--txt-record=full-txt.example.test,100",
    "--txt-record=bad-txt.example.test,many",
    "--txt-record=over-txt.example.test,101",
    "--txt-record=two-txt.example.test,hello",
    "--txt-record=two-txt.example.test,100",
    "--address=/example.test/",  # no other name in that domain exists
)  # fmt: skip
OTHER: Final = "192.0.2.99"
EXCHANGES: Final = [
    exchange
    for exchange in exchanges("plain", "home-blank", "dns-all-fail")
    if exchange.get("request", "").split(" ")[1:2] and "/bootstrap-dns" in exchange["request"]
]


@pytest.fixture(scope="module")
def dns_port() -> Iterator[int]:
    with dns_server(RECORDS) as port:
        yield port


class Site:
    """The bootstrap-dns page of one server, without the rest of the server."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self._config = config_of(folder, *flags)
        self.port = 0
        self.hosts = folder / "hosts"
        self.bootstrap = BootstrapDns(self._config.pages, lambda: Names(resolver_at(self.port), self.hosts))
        self.http = HttpServer(relays=True)

    async def start(self) -> None:
        await self.http.start(pages.application(self._config, self.bootstrap.routes()))

    async def ask(self, query: str = "", remote: str = OTHER) -> dict[str, list[str]] | None:
        """Return the parsed answer, or None for an empty body."""
        head = f"GET /bootstrap-dns{query} HTTP/1.1\r\nHost: derp.example.test\r\n\r\n"
        status, _, body = await answer_to(self.http, head.encode(), remote)
        assert status == 200
        answer: dict[str, list[str]] | None = json.loads(body) if body else {}
        return answer

    def counted(self) -> dict[str, object]:
        return {
            family.metric.name.removeprefix("bootstrap_dns_"): family.value
            for family in self.bootstrap.families()
            if family.value
        }


@asynccontextmanager
async def site(folder: Path, port: int, *flags: str) -> AsyncIterator[Site]:
    made = Site(folder, *flags)
    made.port = port
    await made.start()
    yield made
    await made.http.stop()


@asynccontextmanager
async def recorded_site(name: str, folder: Path, port: int) -> AsyncIterator[Site]:
    flags = RECORDED["servers"][name]["flags"]
    async with site(folder, port, *flags[flags.index("-stun=false") + 1 :]) as made:
        await made.bootstrap.resolve()
        yield made


@pytest.mark.parametrize("exchange", EXCHANGES, ids=called)
async def test_a_recorded_request_gets_the_recorded_answer(exchange: Exchange, tmp_path: Path, dns_port: int) -> None:
    async with recorded_site(exchange["server"], tmp_path, dns_port) as made:
        assert await differences(made.http, exchange) == {}
        if exchange["body"] and not exchange["request"].startswith("HEAD"):
            _, _, body = await answer_to(made.http, exchange["request"].encode(), RECORDED["clients"][exchange["from"]])
            assert body.decode().splitlines()[0] == exchange["body"].splitlines()[0]
            theirs, ours = json.loads(exchange["body"]), json.loads(body)
            assert (theirs or {}).keys() == (ours or {}).keys()
            for host in theirs or {}:
                assert sorted(theirs[host]) == sorted(ours[host])


@pytest.mark.parametrize("case", ROLLOUT["cases"], ids=lambda case: case["ip"])
def test_a_callers_percentile_in_a_roll_out_equals_the_references(case: dict[str, Any]) -> None:
    caller = ipaddress.ip_address(case["ip"])
    assert f"{first_number(caller):016x}" == case["first_uint64"]
    assert fraction(caller) == case["float"] == case["float_numerator"] / 2**53
    if not caller.is_loopback:
        assert [percent for percent in ROLLOUT["percents"] if is_inside(caller, percent)] == case["inside_at"]


@pytest.mark.parametrize("case", ROLLOUT["remote_forms"], ids=lambda case: f"{case['remote']} at {case['percent']}")
def test_a_caller_without_an_address_is_included_only_at_100_percent(case: dict[str, Any]) -> None:
    host, colon, _ = case["remote"].rpartition(":")
    try:
        caller = ipaddress.ip_address(host.strip("[]")) if colon and host[:1] + host[-1:] != "fe" else None
    except ValueError:
        caller = None
    assert is_inside(caller, case["percent"]) == case["inside"]


def test_loopback_is_included_at_random_at_any_share() -> None:
    for address in ("127.0.0.1", "::1"):
        for percent in (1, 99):
            tossed = {is_inside(ipaddress.ip_address(address), percent) for _ in range(200)}
            assert tossed == {True, False}


@pytest.mark.parametrize(
    ("texts", "percent"),
    [([], 0), (["50"], 50), (["0"], 0), (["100"], 100), (["101"], 0), (["-1"], 0), ([""], 0), (["5 %"], 0),
     (["50", "x"], 50), (["x", "7"], 7), (["7", "200"], 7), (["3", "4"], 4), (["9" * 4000], 0), (["\u0663"], 0),
     (["+5"], 5)],
)  # fmt: skip
def test_a_share_is_a_whole_number_of_percent(texts: list[str], percent: int) -> None:
    assert percent_in(texts) == percent


async def test_the_body_is_empty_before_the_first_resolution(tmp_path: Path, dns_port: int) -> None:
    async with site(tmp_path, dns_port, "-bootstrap-dns-names=pub1.example.test") as made:
        assert await made.ask() == {}
        await made.bootstrap.resolve()
        assert (await made.ask() or {}).keys() == {"pub1.example.test"}


async def test_unpublished_names_alone_leave_the_published_body_empty(tmp_path: Path, dns_port: int) -> None:
    async with site(tmp_path, dns_port, "-unpublished-bootstrap-dns-names=unpub.example.test") as made:
        await made.bootstrap.resolve()
        assert await made.ask() == {}
        assert (await made.ask("?q=unpub.example.test") or {}).keys() == {"unpub.example.test"}


async def test_addresses_are_shuffled_at_each_resolution_and_not_at_each_request(tmp_path: Path, dns_port: int) -> None:
    async with site(tmp_path, dns_port, "-bootstrap-dns-names=pub1.example.test") as made:
        orders = set()
        for _ in range(60):
            await made.bootstrap.resolve()
            order = (await made.ask() or {})["pub1.example.test"]
            assert await made.ask() == {"pub1.example.test": order}
            orders.add(tuple(order))
    assert len(orders) > 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the timeout, for tests in which no answer arrives."""
    monkeypatch.setattr(bootstrap, "LOOK_UP", 0.3)


@pytest.mark.usefixtures("impatient")
async def test_names_that_no_longer_resolve_keep_their_addresses_and_shares(tmp_path: Path) -> None:
    flags = (
        "-bootstrap-dns-names=pub1.example.test,gone.example.test",
        "-unpublished-bootstrap-dns-names=full.example.test/full-txt.example.test",
    )
    with dns_server(RECORDS) as port:
        async with site(tmp_path, port, *flags) as made:
            await made.bootstrap.resolve()
            before, unpublished = await made.ask(), await made.ask("?q=full.example.test")
            assert before is not None
            assert before.keys() == {"pub1.example.test"}
            with dns_server(["--address=/example.test/"]) as made.port:  # the names no longer exist
                await made.bootstrap.resolve()
                assert await made.ask() == before
            await made.bootstrap.resolve()  # no DNS server answers any more
            assert await made.ask() == before
            made.port = port
            assert await made.ask("?q=unknown") == before
            assert unpublished == {"full.example.test": ["198.51.100.52"]}


@pytest.mark.usefixtures("impatient")
async def test_a_share_stays_without_an_answer_and_ends_without_its_record(tmp_path: Path) -> None:
    async with site(tmp_path, 0, "-unpublished-bootstrap-dns-names=a.test/txt.test") as made:
        made.hosts.write_text("198.51.100.7 a.test\n")
        with dns_server(["--txt-record=txt.test,100"]) as made.port:
            await made.bootstrap.resolve()
            assert await made.ask("?q=a.test") == {"a.test": ["198.51.100.7"]}
        await made.bootstrap.resolve()
        assert await made.ask("?q=a.test") == {"a.test": ["198.51.100.7"]}
        with dns_server(["--address=/txt.test/"]) as made.port:
            await made.bootstrap.resolve()
            assert await made.ask("?q=a.test") == {}


async def test_requests_are_counted_as_by_the_reference(tmp_path: Path, dns_port: int) -> None:
    async with recorded_site("plain", tmp_path, dns_port) as made:
        for query in ("", "?q=", "?q=pub1.example.test", "?q=unpub.example.test", "?q=gone.example.test", "?q=nobody",
                      "?q=nobody", "?q=zero.example.test", "?x=1"):  # fmt: skip
            await made.ask(query)
        assert made.counted() == {
            "requests": 9,
            "published_hits": 1,
            "unpublished_hits": 2,
            "unpublished_percent_misses": 1,
            "unpublished_misses": 4,
            "queried_domains": 5,
        }


async def test_at_most_500_requested_names_are_remembered(tmp_path: Path, dns_port: int) -> None:
    async with site(tmp_path, dns_port) as made:
        for number in range(500):
            await made.ask(f"?q=name{number}")
        assert made.counted()["queried_domains"] == 500
        await made.ask("?q=name499")
        assert made.counted()["queried_domains"] == 500
        await made.ask(f"?q={'a' * 60_000}")
        assert "queried_domains" not in made.counted()


async def test_the_hosts_file_has_precedence_as_for_the_system(tmp_path: Path, dns_port: int) -> None:
    async with site(tmp_path, dns_port, "-bootstrap-dns-names=pub1.example.test,192.0.2.1,Both.Test") as made:
        made.hosts.write_text(
            "# a.test\n10.0.0.1 x PUB1.example.test # y\nnonsense\n10.0.0.2 both.test\n::2 both.test\n"
        )
        await made.bootstrap.resolve()
        answers = await made.ask() or {}
    assert answers["pub1.example.test"] == ["10.0.0.1"]
    assert answers["192.0.2.1"] == ["192.0.2.1"]
    assert sorted(answers["Both.Test"]) == ["10.0.0.2", "::2"]


async def test_a_name_that_is_invalid_in_dns_does_not_resolve(tmp_path: Path, dns_port: int) -> None:
    names = ["a" * 64 + ".test", ".".join("abcdefgh" * 40), "..", "a b.test", "\u00e9.example.test"]
    for name in names:
        with pytest.raises(NetworkError):
            await Names(resolver_at(dns_port), tmp_path / "none").addresses(name, 2.0)


async def test_a_server_resolves_at_its_start_and_exports_its_counts(tmp_path: Path) -> None:
    async with serving(config_of(tmp_path, "-hostname=a", "-bootstrap-dns-names=localhost")) as server:
        while not (body := (await server.get("/bootstrap-dns"))[1]):
            pass
        assert "127.0.0.1" in json.loads(body)["localhost"]
        assert await server.sample("bootstrap_dns_requests") >= 1
        counted = json.loads((await server.get("/debug/vars"))[1])
    assert sorted(name for name in counted if "bootstrap" in name) == sorted(
        f"counter_{metric.name}" for metric in bootstrap.METRICS
    )
