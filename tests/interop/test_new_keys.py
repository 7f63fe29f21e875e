"""The real Tailscale client, over Go's TLS, with a server of ours that changes its keys all the time."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from realclient import check
from relays import OurDerper

TUNED = Path(__file__).resolve().parents[1] / "server" / "tuned_derper.py"


class FrequentKeyUpdates(OurDerper):
    """A server that changes its keys after every two records, instead of every eight million records."""

    def command(self) -> list[str]:
        return [sys.executable, str(TUNED), json.dumps({"records_per_key": 2})]


@pytest.fixture(scope="module")
def frequent_updates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurDerper]:
    with FrequentKeyUpdates(tmp_path_factory.mktemp("frequent_updates"), tls=True) as relay:
        yield relay


@pytest.mark.parametrize("scenario", ["relay", "bulk"])
def test_packets_arrive_while_the_server_changes_its_keys(frequent_updates: OurDerper, scenario: str) -> None:
    verdict = check(scenario, frequent_updates.url, "-pin", frequent_updates.pin, "-packets", "5000")
    assert verdict.ok, f"{verdict.error}\n{verdict.log[-2000:]}\n{frequent_updates.log()[-2000:]}"
