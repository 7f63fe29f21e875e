"""`derper map` writes the map entry of a server with the same flags; `derper keygen` makes the server's key files."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from relays import HOST, GoDerper, OurDerper, Relay
from running import inline, json_of, tool

from derper.client import DerpClient
from derper.credentials.keys import parse_key_file
from derper.protocol.derpmap import DerpMap, Node
from derper.protocol.keys import MeshKey


def node_of(*words: str) -> dict[str, Any]:
    done = inline("map", *words, "-json")
    assert done.returncode == 0, done.stderr
    (region,) = json_of(done)["Regions"].values()
    (node,) = region["Nodes"]
    named: dict[str, Any] = node
    return named


@pytest.mark.parametrize("kind", [OurDerper, GoDerper], ids=lambda kind: kind.name)
async def test_clients_connect_with_the_entry_of_a_self_signed_server(kind: type[Relay], tmp_path: Path) -> None:
    with kind(tmp_path, tls=True) as relay:
        words = ("-certmode", "manual", "-hostname", HOST, "-certdir", str(tmp_path / "certs"), "-stun=false")
        done = tool("map", *words, "-a", f"{HOST}:{relay.port}", "-http-port=-1", "-json")
        derp_map = DerpMap.from_json(done.stdout.encode())
        assert derp_map.nodes == (Node("900a", 900, HOST, relay.pin, derp_port=relay.port, stun_port=-1),)
        assert "exactly this certificate" in done.stderr
        async with DerpClient(derp_map.regions[900]) as client:
            assert client.connected


def test_only_values_that_differ_from_a_maps_defaults_are_written(tmp_path: Path) -> None:
    name = "derp.example.test"
    Authority(tmp_path).issue(tmp_path, name)
    manual = ("-hostname", name, "-certmode", "manual", "-certdir", str(tmp_path))
    usual = {"Name": "900a", "RegionID": 900, "HostName": name, "CanPort80": True}
    assert node_of(*manual) == usual
    assert node_of("-hostname", name) == usual  # ACME: no certificate is needed yet
    assert node_of(*manual, "-a", "192.0.2.1:8443", "-stun-port", "3479", "-http-port", "-1") == {
        "Name": "900a", "RegionID": 900, "HostName": name, "DERPPort": 8443, "STUNPort": 3479,
    }  # fmt: skip
    assert node_of(*manual, "-a", "8.8.8.8:443")["IPv4"] == "8.8.8.8"
    assert node_of(*manual, "-a", "[2620:fe::fe]:443")["IPv6"] == "2620:fe::fe"
    assert node_of(*manual, "-derp=false")["STUNOnly"] is True
    assert node_of(*manual, "-region-id", "901", "-node", "mine-1")["Name"] == "mine-1"
    settings = tmp_path / "derper.toml"
    settings.write_text(f'hostname = "{name}"\nstun-port = 3480\n'.replace("\\\n", "\n"))
    assert node_of("-settings", str(settings)) == usual | {"STUNPort": 3480}


def test_a_server_without_tls_has_a_note_that_it_needs_a_proxy() -> None:
    done = inline("map", "-hostname", "derp.example.test", "-a", ":3340", "-json")
    assert "DERPPort" not in done.stdout
    assert "only through a TLS proxy" in done.stderr


def test_both_forms_have_the_same_entry() -> None:
    words = ("-hostname", "derp.example.test", "-region-code", "home: 1", "-stun-port", "3479")
    wanted = json_of(inline("map", *words, "-json"))["Regions"]
    policy = inline("map", *words, "-for", "tailscale").stdout
    assert json.loads("{" + policy.rstrip().removesuffix(",") + "}") == {"derpMap": {"Regions": wanted}}
    headscale = inline("map", *words, "-for", "headscale").stdout
    assert headscale == (
        'regions:\n  900:\n    regionid: 900\n    regioncode: "home: 1"\n    regionname: "Mine"\n    nodes:\n'
        '      - name: "900a"\n        regionid: 900\n        hostname: "derp.example.test"\n        stunport: 3479\n'
        "        canport80: true\n"
    )
    shown = inline("map", *words).stdout
    assert policy in shown
    assert headscale in shown


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 1, "set the -hostname"),
        (("-hostname", "192.0.2.1", "-certmode", "manual", "-certdir", "/nowhere"), 1, "there is no certificate"),
        (("-hostname", "x.test", "-for", "yaml"), 1, "-for is 'yaml'"),
        (("-hostname", "x.test", "-region-id", "0"), 1, "-region-id is 0"),
        (("-nonsense",), 2, "flag provided but not defined: -nonsense"),
    ],
)
def test_an_impossible_entry_is_an_error_of_one_sentence(words: tuple[str, ...], code: int, says: str) -> None:
    done = inline("map", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_the_server_starts_with_a_created_key_file(tmp_path: Path) -> None:
    file = tmp_path / "derper.key"
    done = tool("keygen", str(file), "--json")
    public = json_of(done)["public_key"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert str(parse_key_file(file.read_bytes()).public()) == public
    with OurDerper(tmp_path, flags=("-c", str(file))) as relay:
        relay.wait_for_log(re.escape(public))
    again = inline("keygen", str(file))
    assert again.returncode == 1
    assert "keys are never overwritten" in again.stderr


def test_without_a_file_only_the_key_is_printed() -> None:
    done = tool("keygen")
    assert done.returncode == 0
    assert done.stderr == f"public key: {parse_key_file(done.stdout.encode()).public()}\n"


def test_a_mesh_key_is_new_each_time_and_valid_in_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mesh.key"
    assert inline("keygen", "--mesh", str(file)).returncode == 0
    keys = {MeshKey.from_text(file.read_text()), MeshKey.from_text(inline("keygen", "--mesh").stdout)}
    assert len(keys) == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with OurDerper(tmp_path, flags=("-mesh-psk-file", str(file))) as relay:
        assert relay.alive()


@pytest.mark.parametrize("issuer", ["itself", "an authority", "an authority with a chain"])
def test_the_log_has_the_node_that_the_tool_writes(issuer: str, tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    if issuer != "itself":
        authority = Authority(tmp_path)
        authority.issue(certs, HOST)
        if issuer.endswith("chain"):
            with (certs / f"{HOST}.crt").open("ab") as bundle:
                bundle.write(authority.file.read_bytes())
    with OurDerper(tmp_path, tls=True) as relay:
        (logged,) = relay.wait_for_log(r'(?m)^(\{"Name".*\})$').groups()
        words = ("-certmode", "manual", "-hostname", HOST, "-certdir", str(certs), "-stun=false", "-http-port=-1")
        node = node_of(*words, "-a", f"{HOST}:{relay.port}")
    assert json.loads(logged) == node
    assert (node["Name"], node["DERPPort"], node["STUNPort"]) == ("900a", relay.port, -1)
    assert ("CertName" in node) == (issuer != "an authority with a chain"), "clients that pin reject intermediates"
