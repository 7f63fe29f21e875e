"""`derper ctl` and `derper top` with a running server of ours, over its admin listener."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from relays import HOST, OurDerper, Relay, RelayError, free_port
from running import SECONDS, inline, json_of, tool

from derper.client import Connected, DerpClient, Disconnected, Health, NodePrivate, Options
from derper.errors import NetworkError

TOKEN = "correct-horse-battery"  # noqa: S105  a test's own
NOBODY = "nodekey:" + "11" * 32


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("ctl")
    with OurDerper(folder, flags=("-admin", f"unix:{folder}/admin.sock")) as relay:
        yield relay


@pytest.fixture
def place(relay: Relay) -> tuple[str, str]:
    return "--admin", f"unix:{relay.folder}/admin.sock"


@pytest.fixture
async def client(relay: Relay) -> AsyncIterator[DerpClient]:
    async with asyncio.timeout(SECONDS), DerpClient(relay.url, options=Options(reconnect=False)) as client:
        assert isinstance(await client.receive(), Connected)
        yield client


async def test_a_health_text_reaches_every_client_and_can_be_cleared(
    client: DerpClient, place: tuple[str, str]
) -> None:
    said = await asyncio.to_thread(tool, "ctl", *place, "health", "back at six")
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "all clients are sent the message\n")
    assert await client.receive() == Health("back at six")
    cleared = await asyncio.to_thread(tool, "ctl", *place, "--json", "health")
    assert json_of(cleared) == {"text": ""}
    assert await client.receive() == Health("")


async def test_a_key_is_disconnected_and_an_absent_one_is_reported(client: DerpClient, place: tuple[str, str]) -> None:
    done = await asyncio.to_thread(tool, "ctl", *place, "disconnect", str(client.key))
    assert (done.returncode, done.stderr) == (0, "connections closed: 1\n")
    with pytest.raises(NetworkError, match=r"closed|lost"):
        await client.receive()
    again = await asyncio.to_thread(tool, "ctl", *place, "disconnect", NOBODY)
    assert (again.returncode, again.stdout) == (1, "")
    assert f"no client with the key {NOBODY} is connected" in again.stderr


async def test_a_key_can_be_disconnected_by_its_short_form_in_top(client: DerpClient, place: tuple[str, str]) -> None:
    shown = (await asyncio.to_thread(tool, "top", *place, "--once", "--interval", "0.1")).stdout
    (word,) = (word for word in shown.split() if word.startswith(str(client.key)[:24]))
    assert word != str(client.key)
    done = await asyncio.to_thread(tool, "ctl", "disconnect", word, *place)
    assert (done.returncode, done.stderr) == (0, "connections closed: 1\n")
    with pytest.raises(NetworkError, match=r"closed|lost"):
        await client.receive()


async def test_a_prefix_of_two_keys_disconnects_neither_and_lists_them(relay: Relay, place: tuple[str, str]) -> None:
    private = [NodePrivate(bytes((number % 256, number // 256)) + bytes(30)) for number in range(8, 16_000, 8)]
    by_prefix: dict[str, list[NodePrivate]] = {}
    for key in private:
        by_prefix.setdefault(key.public().hex()[:4], []).append(key)
    prefix, pair = next((prefix, keys) for prefix, keys in by_prefix.items() if len(keys) > 1)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(DerpClient(relay.url, key)) for key in pair]
        done = await asyncio.to_thread(tool, "ctl", "disconnect", prefix, *place)
        assert done.returncode == 1
        assert f"ambiguous key {prefix}: {len(pair)} connected keys begin with it" in done.stderr
        assert all(str(client.key) in done.stderr for client in clients)
        assert "give more digits" in done.stderr
        for client in clients:
            assert isinstance(await client.receive(), Connected)
            await client.send(client.key, b"still here")
            assert (await client.packet()).packet == b"still here"


def test_the_address_and_json_flags_may_precede_or_follow_the_action(place: tuple[str, str]) -> None:
    for words in (("--json", *place, "health"), ("health", *place, "--json"), (*place, "health", "--json")):
        done = tool("ctl", *words)
        assert (done.returncode, json_of(done)) == (0, {"text": ""}), done.stderr
    after = tool("ctl", "--admin", "unix:/nowhere", "health", *place)
    assert after.returncode == 0, after.stderr


def test_a_reload_reports_its_result(relay: Relay, place: tuple[str, str]) -> None:
    assert tool("ctl", *place, "reload").stderr == "reloaded\n"
    relay.wait_for_log("event=reloaded")


async def test_top_shows_the_clients_with_the_most_traffic(client: DerpClient, place: tuple[str, str]) -> None:
    watching = asyncio.create_task(asyncio.to_thread(tool, "top", *place, "--json", "--interval", "1"))
    while not watching.done():
        await client.send(client.key, bytes(1_000))
        await client.packet()
    first = json_of(watching.result())[0]
    assert first["key"] == str(client.key)
    assert first["bytes_in"] >= 1_000
    assert first["in_rate"] > 0
    shown = await asyncio.to_thread(tool, "top", *place, "--once", "--interval", "0.1")
    assert shown.returncode == 0
    assert str(client.key)[:24] in shown.stdout


async def test_a_drain_ends_the_server_cleanly(tmp_path: Path) -> None:
    relay = OurDerper(tmp_path, flags=("-admin", f"unix:{tmp_path}/admin.sock"))
    relay.start()
    async with asyncio.timeout(SECONDS), DerpClient(relay.url) as client:
        done = await asyncio.to_thread(tool, "ctl", "--admin", f"unix:{tmp_path}/admin.sock", "drain")
        assert (done.returncode, done.stderr) == (0, "it sends its clients away and ends\n")
        while not isinstance(await client.receive(), Disconnected):
            pass
        relay.wait_for_log("drain requested by the operator")
        with pytest.raises(RelayError, match="did not log"):  # waits until the server has ended
            await asyncio.to_thread(relay.wait_for_log, "never logged")
    with pytest.raises(RelayError, match="died with exit code 0"):
        relay.stop()


def test_changes_over_an_address_need_the_token(tmp_path: Path) -> None:
    token, port = tmp_path / "token", free_port()
    token.write_text(TOKEN)
    with OurDerper(tmp_path / "relay", flags=("-admin", f"{HOST}:{port}", "-admin-token-file", str(token))):
        at = ("--admin", f"{HOST}:{port}")
        refused = tool("ctl", *at, "health", "x")
        assert refused.returncode == 1
        assert "401" in refused.stderr
        assert "--token-file" in refused.stderr
        wrong = tmp_path / "wrong"
        wrong.write_text(TOKEN[::-1])
        with_wrong = tool("ctl", "health", "x", *at, "--token-file", str(wrong))
        assert with_wrong.returncode == 1
        assert f"the token in {wrong} is not the one in the server's -admin-token-file" in with_wrong.stderr
        assert tool("ctl", *at, "--token-file", str(token), "health", "x").returncode == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("ctl",), 2, "usage: derper ctl"),
        (("ctl", "stop"), 2, "invalid choice: 'stop'"),
        (("ctl", "disconnect", "x"), 1, "or the first 4 or more; got 'x'"),
    ],
)
def test_invalid_arguments_are_errors_of_one_sentence(words: tuple[str, ...], code: int, says: str) -> None:
    done = inline(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
