"""The metrics have the names, types and labels of the page, and those of a reference server beside ours."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest
from realclient import check
from relays import GoDerper, OurDerper, Relay

PAGE: Final = Path(__file__).parents[2] / "docs" / "protocol" / "metrics.md"
NOT_YET: Final = re.compile(r"derp(er)?_rate_limit_")
OURS_ALONE: Final = frozenset({
    "stun_kernel_drops", "derper_connections_rejected", "derper_logins_rejected", "derper_logins_unverified",
    "derper_unknown_frames", "derper_connections_evicted",
    "derper_pending_connections", "derper_routes_forgotten",
    "derper_connections_closed_for_memory", "derper_packets_between_shards", "derper_mesh_keys_rejected",
    "derper_log_lines_dropped",
})  # fmt: skip
NEEDS_FLAGS: Final = re.compile(r"tls_listener_|derper_mesh_links")  # metrics that need TLS or other nodes
GO_ONLY: Final = re.compile(r"go_|goroutines|goamd64_|memstats_|derp_memstats_|promhttp_")
WITH_FIRST_COUNT: Final = ("derp_tcp_rtt", "derper_tls_request_version", "derper_tls_active_version")
SAMPLE: Final = re.compile(r"^(\w+?)(_bucket|_sum|_count)?(?:\{(.*)\})? \S+$")
LABEL: Final = re.compile(r'(\w+)="')

Families = dict[str, tuple[str, tuple[str, ...]]]


def page() -> Families:
    """Return name, type and labels of each family in the page's tables of derper's metrics."""
    text = PAGE.read_text().partition("### Go runtime only")[0]
    found: Families = {}
    for row in text.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if not row.startswith("| `") or len(cells) != 4:
            continue
        labels = tuple(re.findall(r"`(\w+)` =", cells[2]))
        if not labels and "`" in cells[2]:
            labels = tuple(re.findall(r"`(\w+)`", cells[2]))
        for name in re.findall(r"`(\w+)`", cells[0]):
            found[name] = ("" if cells[1] == "—" else cells[1], labels)
    library = text.partition("### From the Prometheus client library")[2]
    for name in re.findall(r"`(process_\w+)`", library):
        found[name] = ("counter" if name.endswith("_total") else "gauge", ())
    return found


def shown(text: str) -> Families:
    """Return name, type and labels of each family of /debug/varz; a family without samples has no labels here."""
    types: dict[str, str] = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    found: Families = {name: (kind, ()) for name, kind in types.items()}
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        sample = SAMPLE.match(line)
        assert sample, line
        name, part, labels = sample.groups()
        if part and types.get(name) != "histogram":
            name += part
        if part not in ("_sum", "_count"):
            found[name] = (types.get(name, ""), tuple(LABEL.findall(labels or "")))
    return found


def fetch(relay: Relay, name: str) -> str:
    with urlopen(f"{relay.url}/debug/{name}") as answer:  # noqa: S310  our own URL
        text: str = answer.read().decode()
    return text


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, Relay]]:
    """Our server and the reference, both after the same traffic."""
    ours, theirs = (kind(tmp_path_factory.mktemp(kind.name)) for kind in (OurDerper, GoDerper))
    with ours, theirs:
        for relay in (ours, theirs):
            for scenario in ("relay", "ping", "gone"):
                assert check(scenario, relay.url).ok
        yield ours, theirs


def test_the_server_has_exactly_the_families_of_the_page(pair: tuple[Relay, Relay]) -> None:
    ours, wanted = shown(fetch(pair[0], "varz")), page()
    expected = {name: of for name, of in wanted.items() if not NOT_YET.match(name) and not NEEDS_FLAGS.match(name)}
    assert len(expected) > 50
    for name in WITH_FIRST_COUNT:
        assert ours.pop(name, expected[name])[0] == expected.pop(name)[0]
    assert ours == expected


def test_families_of_the_reference_have_its_types_and_labels(pair: tuple[Relay, Relay]) -> None:
    ours, theirs = (shown(fetch(relay, "varz")) for relay in pair)
    missing = [name for name in theirs.keys() - ours.keys() if not GO_ONLY.match(name) and not NOT_YET.match(name)]
    assert missing == []
    assert {name: of for name, of in ours.items() if name in theirs} == {n: of for n, of in theirs.items() if n in ours}
    assert ours.keys() - theirs.keys() == OURS_ALONE


def test_both_servers_have_the_same_samples_at_the_start(tmp_path: Path) -> None:
    def names(relay: Relay) -> set[str]:
        lines = [line for line in fetch(relay, "varz").splitlines() if not line.startswith("#")]
        found = {line.rpartition(" ")[0] for line in lines}
        found = {name for name in found if not GO_ONLY.match(name) and not NOT_YET.match(name)}
        return {name for name in found if name.partition("{")[0] not in OURS_ALONE}

    with OurDerper(tmp_path / "ours") as ours, GoDerper(tmp_path / "theirs") as theirs:
        differ = names(ours) ^ names(theirs)
        assert {name for name in differ if not name.startswith("version{")} == set()


def test_the_same_traffic_gives_the_same_counts(pair: tuple[Relay, Relay]) -> None:
    def counts(relay: Relay) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(fetch(relay, "vars"))["derp"]
        same = ("accepts", "packets_received", "bytes_received", "packets_sent", "bytes_sent", "got_ping",
                "gauge_current_connections", "counter_packets_received_kind")  # fmt: skip
        return {name: told[name] for name in same}

    assert counts(pair[0]) == counts(pair[1])


def test_the_json_has_the_members_of_the_reference(pair: tuple[Relay, Relay]) -> None:
    ours, theirs = (json.loads(fetch(relay, "vars")) for relay in pair)

    def members(of: dict[str, Any]) -> set[str]:
        go = re.compile(r"gauge_go|go_version|memstats|gauge_memstats")
        kind = re.compile(r"^(counter|gauge)_")
        return {name for name in of if not go.match(name) and kind.sub("", name) not in OURS_ALONE}

    assert members(ours) == members(theirs)
    assert members(ours["derp"]) == members(theirs["derp"])
    same_kind = {name: (type(ours["derp"][name]), type(theirs["derp"][name])) for name in members(ours["derp"])}
    numbers = (int, float)
    assert {n: k for n, k in same_kind.items() if k[0] is not k[1] and not (k[0] in numbers and k[1] in numbers)} == {}
