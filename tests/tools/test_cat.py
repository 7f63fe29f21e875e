"""`derper cat`: two processes exchange data through a relay, ours and the reference's."""

import asyncio
import base64
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from relays import GoDerper, OurDerper, Relay
from running import SECONDS, json_of, tool

NOBODY = "nodekey:" + "11" * 32


@pytest.fixture(scope="module", params=[OurDerper, GoDerper], ids=lambda kind: kind.name)
def relay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with request.param(tmp_path_factory.mktemp("cat"), tls=True) as relay:
        yield relay


@asynccontextmanager
async def cat(relay: Relay, *words: str) -> AsyncIterator[Process]:
    command = (sys.executable, "-m", "derper", "cat", relay.url, "--pin", relay.pin, *words)
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def key_of(process: Process) -> str:
    assert process.stderr
    line = (await process.stderr.readline()).decode()
    assert line.startswith("we are nodekey:"), line
    return line.split()[-1]


@pytest.mark.parametrize("how", [(), ("--websocket",)], ids=["tcp", "websocket"])
async def test_each_process_prints_the_input_of_the_other(relay: Relay, how: tuple[str, ...]) -> None:
    long = b"0123456789" * 2_000
    async with (
        asyncio.timeout(SECONDS),
        cat(relay, *how) as listening,
        cat(relay, await key_of(listening)) as speaking,
    ):
        key = await key_of(speaking)
        at_listener, at_speaker = await asyncio.gather(
            listening.communicate(b"and back\n"), speaking.communicate(b"hello\n" + long)
        )
        assert at_listener[0] == b"hello\n" + long
        assert at_speaker[0] == b"and back\n"
        assert f"{key} speaks\n".encode() in at_listener[1]
        assert (listening.returncode, speaking.returncode) == (0, 0)


async def test_cat_ends_when_its_peer_leaves(relay: Relay) -> None:
    async with asyncio.timeout(SECONDS), cat(relay) as listening:
        async with cat(relay, await key_of(listening)) as speaking:
            assert speaking.stdin
            assert listening.stdout
            speaking.stdin.write(b"hello")
            assert await listening.stdout.readexactly(5) == b"hello"
            speaking.kill()
        assert listening.stderr
        assert b"the peer is gone" in await listening.stderr.read()
        assert await listening.wait() == 0


async def test_with_json_each_event_is_a_line(relay: Relay) -> None:
    async with asyncio.timeout(SECONDS), cat(relay, "--json") as listening:
        assert listening.stdout
        connected = json.loads(await listening.stdout.readline())
        assert connected["event"] == "connected"
        async with cat(relay, connected["key"]) as speaking:
            key = await key_of(speaking)
            (rest, _), _ = await asyncio.gather(listening.communicate(b""), speaking.communicate(b"\x00\xff"))
    events = [json.loads(line) for line in rest.splitlines()]
    assert events == [
        {"event": "peer", "key": key},
        {"event": "packet", "from": key, "data": base64.b64encode(b"\x00\xff").decode()},
        {"event": "end"},
    ]


async def test_a_key_file_sets_the_clients_key(relay: Relay, tmp_path: Path) -> None:
    file = tmp_path / "cat.key"
    made = json_of(await asyncio.to_thread(tool, "keygen", str(file), "--json"))
    async with asyncio.timeout(SECONDS), cat(relay, "--key", str(file)) as process:
        assert await key_of(process) == made["public_key"]


async def test_a_wait_without_a_peer_ends_with_an_error(relay: Relay) -> None:
    done = await asyncio.to_thread(tool, "cat", relay.url, NOBODY, "--pin", relay.pin, "--wait", "0.5", stdin="hello?")
    assert done.returncode == 1
    assert "derper cat: nothing came for 0.5 s" in done.stderr


def test_invalid_arguments_are_errors_of_one_sentence(relay: Relay) -> None:
    for words, code, says in (
        ((), 2, "usage: derper cat"),
        ((relay.url, "somebody", "--pin", relay.pin), 1, "somebody is no key"),
        ((relay.url,), 1, "not trusted"),
    ):
        done = tool("cat", *words)
        assert (done.returncode, done.stdout) == (code, "")
        assert says in done.stderr
        assert "Traceback" not in done.stderr
