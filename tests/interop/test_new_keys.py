"""The real Tailscale client, over Go's TLS, takes it well that our server changes its keys all the time."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from realclient import check
from relays import OurDerper

TUNED = Path(__file__).resolve().parents[1] / "server" / "tuned_derper.py"


class RestlessDerper(OurDerper):
    """Changes its keys after every second record, instead of every eight millionth."""

    def command(self) -> list[str]:
        return [sys.executable, str(TUNED), json.dumps({"records_per_key": 2})]


@pytest.fixture(scope="module")
def restless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurDerper]:
    with RestlessDerper(tmp_path_factory.mktemp("restless"), tls=True) as relay:
        yield relay


@pytest.mark.parametrize("scenario", ["relay", "bulk"])
def test_packets_flow_on_while_the_server_changes_its_keys(restless: OurDerper, scenario: str) -> None:
    verdict = check(scenario, restless.url, "-pin", restless.pin, "-packets", "5000")
    assert verdict.ok, f"{verdict.error}\n{verdict.log[-2000:]}\n{restless.log()[-2000:]}"
