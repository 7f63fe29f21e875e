"""Every command line of docs/tools.md runs, and the tools do what the page describes."""

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import Authority
from relays import HOST, OurDerper, Relay, RelayError
from running import SECONDS, inline, json_of, tool
from written import commands, here

from derper.cli.tools import TOOLS
from derper.client import Connected, DerpClient, Health, Node, Options

PAGE = "docs/tools.md"


def lines(name: str) -> list[tuple[str, ...]]:
    """Return the lines of one tool, starting with its name."""
    found = [line[1:] for line in commands(PAGE, name) if line[1] == name]
    assert found, name
    return found


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("tools")
    with OurDerper(folder, tls=True, flags=("-admin", "unix"), env={"RUNTIME_DIRECTORY": str(folder)}) as relay:
        yield relay


def test_the_page_has_lines_of_exactly_the_existing_tools() -> None:
    assert {line[1] for line in commands(PAGE) if line[1] != "-h"} == TOOLS.keys()


def test_doctor_checks_a_host_a_pin_and_a_map(relay: Relay, tmp_path: Path) -> None:
    node = {"Name": "900a", "RegionID": 900, "HostName": HOST, "CertName": relay.pin, "DERPPort": relay.port}
    derp_map = tmp_path / "derp-map.json"
    derp_map.write_text(json.dumps({"Regions": {"900": {"RegionID": 900, "RegionCode": "a", "Nodes": [node]}}}))
    by_host, by_pin, by_map = lines("doctor")
    where = f"{HOST}:{relay.port}"
    assert checked(here(by_host, tmp_path, derp_example_com=where))["certificate"] == "red"
    pinned = here(by_pin, tmp_path, sha256_raw_31e8_b0b1=relay.pin, **{"203_0_113_7": where})
    assert checked(pinned)["packet"] == "good"
    assert checked(here(by_map, tmp_path, derp_map_json=str(derp_map)))["packet"] == "good"


def checked(words: tuple[str, ...]) -> dict[str, str]:
    quick = () if "--region" in words else ("--stun-port", "-1", "--http-port", "-1")
    (one,) = json_of(tool(*words, *quick, "--json"))["relays"]
    return {check["check"]: check["state"] for check in one["checks"]}


def test_keygen_makes_both_kinds_of_keys(tmp_path: Path) -> None:
    for line in lines("keygen"):
        assert inline(*here(line, tmp_path)).returncode == 0
    assert (tmp_path / "derper/derper.key").read_text().startswith("{")
    assert re.fullmatch(r"[0-9a-f]{64}\n?", (tmp_path / "derper/mesh.key").read_text())


def test_map_prints_both_entries(tmp_path: Path) -> None:
    Authority(tmp_path).issue(tmp_path / "derper/certs", "203.0.113.7")
    (line,) = lines("map")
    done = inline(*here(line, tmp_path))
    assert done.returncode == 0, done.stderr
    assert '"derpMap"' in done.stdout
    assert "regions:" in done.stdout


def test_settings_shows_the_source_of_each_value(tmp_path: Path) -> None:
    (line,) = lines("settings")
    words = here(line, tmp_path)
    (tmp_path / "derper/derper.toml").write_text("home = 'blank'")
    told = {entry["name"]: (entry["value"], entry["source"]) for entry in json_of(inline(*words, "-c", "key", "-json"))}
    assert told["-a"] == (":8443", "command line")
    assert told["-home"] == ("blank", words[2])


async def test_ctl_reloads_sends_health_texts_and_disconnects(relay: Relay) -> None:
    _drain, reload, disconnect, health = lines("ctl")

    def told(*words: str) -> tuple[int, str]:
        done = tool(*words, RUNTIME_DIRECTORY=str(relay.folder))
        return done.returncode, done.stderr

    assert await asyncio.to_thread(told, *reload) == (0, "reloaded\n")
    async with asyncio.timeout(SECONDS), a_client(relay) as client:
        assert isinstance(await client.receive(), Connected)
        assert (await asyncio.to_thread(told, *health))[0] == 0
        assert await client.receive() == Health(health[-1])
        words = (*disconnect[:-1], str(client.key))
        assert await asyncio.to_thread(told, *words) == (0, "connections closed: 1\n")


def a_client(relay: Relay) -> DerpClient:
    node = Node("900a", 900, HOST, cert_name=relay.pin, derp_port=relay.port)
    return DerpClient(node, options=Options(reconnect=False))  # a disconnected client does not return


async def test_top_shows_the_clients(relay: Relay) -> None:
    (line,) = lines("top")
    async with a_client(relay) as client:
        done = await asyncio.to_thread(tool, *line, "--once", "--interval", "0.1", RUNTIME_DIRECTORY=str(relay.folder))
        assert str(client.key)[:20] in done.stdout


async def test_cat_connects_two_terminals(relay: Relay, tmp_path: Path) -> None:
    waits, speaks = lines("cat")
    where = f"{HOST}:{relay.port}"

    async def start(*words: str) -> asyncio.subprocess.Process:
        command = (sys.executable, "-m", "derper", *words, "--pin", relay.pin)
        return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)

    async with asyncio.timeout(SECONDS):
        one = await start(*here(waits, tmp_path, derp_example_com=where))
        assert one.stderr
        said = (await one.stderr.readline()).decode()
        assert said.startswith("we are nodekey:")
        assert len(speaks[-1].split(":")) == 2
        other = await start(*here(speaks[:-1], tmp_path, derp_example_com=where), said.split()[-1])
        heard, _ = await asyncio.gather(one.communicate(b"and back"), other.communicate(b"hello"))
        assert heard[0] == b"hello"


def test_ctl_drains(tmp_path: Path) -> None:
    drained = OurDerper(tmp_path, flags=("-admin", "unix"), env={"RUNTIME_DIRECTORY": str(tmp_path)})
    drained.start()
    done = tool(*lines("ctl")[0], RUNTIME_DIRECTORY=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "it sends its clients away and ends\n")
    with pytest.raises(RelayError, match="did not log"):  # waits until the server has ended
        drained.wait_for_log("never logged")
    with pytest.raises(RelayError, match="died with exit code 0"):
        drained.stop()
