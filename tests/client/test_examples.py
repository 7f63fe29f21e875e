"""The examples do what their texts describe."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from relays import HOST, OurDerper, Relay, free_port
from tracked import ROOT
from waysin import MESH_KEY, SECONDS, way_to

from derper.protocol.derpmap import DerpMap, Node, Region


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("examples")
    (folder / "mesh.key").write_text(MESH_KEY.to_text())
    with OurDerper(folder, tls=True, flags=("-mesh-psk-file", str(folder / "mesh.key"))) as relay:
        yield relay


def example(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / name), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_the_first_packet_arrives(relay: Relay) -> None:
    done = example("first_packet.py", relay.url, relay.pin)
    assert done.returncode == 0, done.stderr
    assert "'the first packet' went from" in done.stdout


def test_the_reason_for_a_missing_first_packet_is_printed(relay: Relay) -> None:
    for url, why in (
        (f"http://{HOST}:{free_port()}", "Connection refused"),
        (relay.url, "not trusted"),
        ("x", "https:"),
    ):
        done = example("first_packet.py", url)
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr
    assert example("first_packet.py").returncode == 2


@pytest.mark.parametrize("ignored", ["", "INT"], ids=["", "SIGINT ignored at the start"])
async def test_the_example_who_is_here_lists_new_and_removed_clients(relay: Relay, ignored: str) -> None:
    """A program that a script starts in the background inherits an ignored SIGINT."""
    node = Node("900a", 900, HOST, cert_name=relay.pin, derp_port=relay.port)
    derp_map = relay.folder / "map.json"
    derp_map.write_text(json.dumps(DerpMap({900: Region(900, "test", nodes=(node,))}).to_json()))
    words = (str(derp_map), "900", str(relay.folder / "mesh.key"))
    program = str(ROOT / "examples" / "who_is_here.py")
    shell = ("sh", "-c", f'trap "" {ignored}; exec "$@"', "sh")
    watching = await asyncio.create_subprocess_exec(*shell, sys.executable, program, *words, stdout=subprocess.PIPE)

    async def told() -> str:
        assert watching.stdout
        return (await watching.stdout.readline()).decode().strip()

    async with asyncio.timeout(SECONDS):
        assert await told() == "at 900a"
        itself = await told()
        async with way_to(relay, "tls13").client() as alice:
            assert await told() == f"+ {alice.key} from {HOST}"
            assert itself != f"+ {alice.key} from {HOST}"
        assert await told() == f"- {alice.key}"
        watching.send_signal(signal.SIGINT)
        assert await watching.wait() == 0
    assert example("who_is_here.py", str(derp_map), "901", words[2]).returncode == 1
