"""With one folder and one command line: Go's server, ours, and Go's again; clients only notice the restarts."""

from pathlib import Path

import pytest
from realclient import check
from relays import GoDerper, OurDerper, Relay

ROUND = (GoDerper, OurDerper, GoDerper, OurDerper)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_each_server_uses_the_files_of_the_other_and_clients_keep_their_pins(
    tmp_path: Path,
    tls: bool,  # noqa: FBT001
) -> None:
    mesh_key = tmp_path / "mesh.key"
    mesh_key.write_text("ab" * 32)
    rates = tmp_path / "rates.json"
    rates.write_text('{"PerClientRateLimitBytesPerSec": 100000000, "PerClientRateBurstBytes": 200000000}')
    flags = ("-mesh-psk-file", str(mesh_key), "-rate-config", str(rates), "-tcp-write-timeout=3s")
    pins, keys = set(), set()
    for kind in ROUND:
        relay: Relay = kind(tmp_path / "relay", tls=tls, flags=flags)
        with relay:
            verdict = check("relay", relay.url, *(("-pin", relay.pin) if tls else ()))
            assert verdict.ok, verdict.error
            pins.add(relay.pin)
            keys.add((tmp_path / "relay" / "derper.key").read_text())
    assert len(pins) == 1
    assert len(keys) == 1
