"""Our server serves old clients as the reference does, with and without TLS.

Since release 1.10.0 (June 2021) Tailscale's client builds and logs in as today's does. The oldest that builds, 1.0.0
(July 2020), sends `"MeshKey": ""` if it has no mesh key. Both servers reject this, so here it always has a mesh key.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from parts import program
from relays import HOST, GoDerper, OurDerper, Relay

MESH_KEY = "cd" * 32
SECONDS = 60


@pytest.fixture(scope="module", params=[(kind, tls) for kind in (OurDerper, GoDerper) for tls in (False, True)])
def relay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    kind, tls = request.param
    folder = tmp_path_factory.mktemp("old")
    (folder / "mesh.key").write_text(MESH_KEY)
    with kind(folder, tls=tls, flags=("-mesh-psk-file", str(folder / "mesh.key"))) as relay:
        yield relay


def verdict(name: str, relay: Relay, *flags: str) -> dict[str, Any]:
    tls = ("-tls",) if relay.tls else ()
    done = subprocess.run(
        [program(name), "-at", f"{HOST}:{relay.port}", *tls, "-mesh-key", MESH_KEY, *flags],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize(("name", "flags"), [("oldcheck", ()), ("oldestcheck", ("-trusted",))], ids=["1.10", "1.0"])
def test_an_old_client_logs_in_exchanges_packets_gets_peer_gone_and_meshes(
    relay: Relay, name: str, flags: tuple[str, ...]
) -> None:
    assert verdict(name, relay, *flags) == {"ok": True}


def test_both_servers_reject_the_oldest_client_without_a_mesh_key(relay: Relay) -> None:
    said = verdict("oldestcheck", relay)
    assert not said["ok"]
    assert "failed to receive server info: EOF" in said["error"]
