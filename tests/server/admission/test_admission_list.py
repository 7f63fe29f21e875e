"""The list of allowed keys: its format, its effect on logins, and the disconnection of a key that is removed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from live import Client, Server, config_of, serving
from structlog.testing import capture_logs
from structlog.typing import EventDict
from verifier import ALLOW, REFUSE, Question, always, at_a_url, disconnect_reason, http, logged_event, stays, try_login

from derper.errors import ConfigError
from derper.protocol import NodePrivate
from derper.protocol.keys import MeshKey
from derper.server.admission import allowlist
from derper.server.admission.allowlist import LOOK_AGAIN_SECONDS, load

ONE, OTHER = (NodePrivate(bytes([number] * 32)) for number in (7, 8))
MESH_KEY = MeshKey(bytes(range(32)))
TOLD = "this relay rejected this device: its key is not on the relay's list"


@pytest.fixture(autouse=True)
def log() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


def listing(path: Path, *keys: NodePrivate) -> Path:
    path.write_text("".join(f"{key.public()}\n" for key in keys))
    return path


@asynccontextmanager
async def admitting(file: Path, *flags: str) -> AsyncIterator[Server]:
    (file.parent / "mesh.key").write_text(MESH_KEY.to_text())
    mesh = ("-mesh-psk-file", str(file.parent / "mesh.key"))
    async with serving(config_of(file.parent, *mesh, "-allow-keys", str(file), *flags), shards=2) as server:
        yield server


def test_a_list_has_a_key_a_line_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    upper = f"nodekey:{OTHER.public().hex().upper()}"
    path.write_text(f"# who may\n\n  {ONE.public()}  # the phone\r\n{upper}")
    assert load(path) == {ONE.public(), OTHER.public()}


@pytest.mark.parametrize("line", ["nodekey:12", "mkey:" + "0" * 64, "0" * 64, "nodekey:" + "g" * 64, "\xff"])
def test_an_invalid_key_is_an_error_that_names_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{ONE.public()}\n{line}\n", "latin-1")
    with pytest.raises(ConfigError, match=f"{path} have a line 2 that is invalid"):
        load(path)


def test_a_missing_list_is_a_start_up_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the allowed keys .* cannot be read"):
        load(tmp_path / "keys")


async def test_listed_clients_and_all_mesh_peers_are_admitted(tmp_path: Path, log: list[EventDict]) -> None:
    async with admitting(listing(tmp_path / "keys", ONE)) as server:
        assert await try_login(server, ONE) is None
        assert await try_login(server, OTHER) == TOLD
        assert await try_login(server, OTHER, mesh_key=MESH_KEY) is None
    assert (await logged_event(log, "client rejected"))["reason"] == f"peer {OTHER.public()} not in {tmp_path / 'keys'}"


async def test_only_a_client_removed_from_the_list_is_notified_and_disconnected_within_two_seconds(
    tmp_path: Path, log: list[EventDict]
) -> None:
    file = listing(tmp_path / "keys", ONE, OTHER)
    async with admitting(file) as server:
        leaving = [await Client.log_in(server, private=ONE) for _ in range(2)]
        staying = await Client.log_in(server, private=OTHER)
        mesh_peer = await Client.log_in(server, mesh_key=MESH_KEY)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        listing(tmp_path / "new", OTHER).replace(file)
        assert [await disconnect_reason(client) for client in leaving] == [TOLD, TOLD]
        assert loop.time() - begun < 2
        await stays(staying)
        await stays(mesh_peer)
        assert await try_login(server, ONE) == TOLD
        listing(tmp_path / "new", ONE, OTHER).replace(file)
        log.clear()
        await logged_event(log, "reloaded")
        assert await try_login(server, ONE) is None


async def test_sighup_reads_the_list_at_once(tmp_path: Path) -> None:
    file = listing(tmp_path / "keys", ONE)
    async with admitting(file) as server:
        client = await Client.log_in(server, private=ONE)
        listing(file)
        await server.parts.reload()
        assert await disconnect_reason(client) == TOLD


@pytest.mark.parametrize("bad", ["gone", "broken"])
async def test_a_list_that_becomes_invalid_disconnects_no_client_and_is_logged_once(
    tmp_path: Path, log: list[EventDict], bad: str
) -> None:
    file = listing(tmp_path / "keys", ONE)
    async with admitting(file) as server:
        client = await Client.log_in(server, private=ONE)
        if bad == "gone":
            file.unlink()
        else:
            file.write_text("nodekey:\n")
        said = await logged_event(log, "reload failed; the previous state stays in force")
        assert said["what"] == "the allowed keys"
        await stays(client)
        assert await try_login(server, ONE) is None
        log.clear()
        listing(file, ONE, OTHER)
        await logged_event(log, "reloaded")
        assert [line["event"] for line in log].count("reload failed; the previous state stays in force") == 0


async def test_all_kinds_of_check_have_to_agree_and_the_list_is_checked_first(tmp_path: Path) -> None:
    file = listing(tmp_path / "keys", ONE)
    async with (
        at_a_url(always(http(REFUSE))) as url,
        admitting(file, "-verify-client-url", url.url) as server,
    ):
        assert await try_login(server, OTHER) == TOLD
        assert url.asked == []
        assert await try_login(server, ONE) is not None
        assert len(url.asked) == 1


async def test_a_key_removed_from_the_list_during_another_check_is_rejected(tmp_path: Path) -> None:
    thought = asyncio.Event()

    async def answer(_question: Question) -> bytes:
        await thought.wait()
        return http(ALLOW)

    file = listing(tmp_path / "keys", ONE)
    async with at_a_url(answer) as url, admitting(file, "-verify-client-url", url.url) as server:
        knocking = asyncio.create_task(try_login(server, ONE))
        await url.came.wait()
        listing(file)
        await server.parts.reload()
        thought.set()
        assert await knocking == TOLD


async def test_with_verify_any_one_kind_of_check_is_enough(tmp_path: Path, log: list[EventDict]) -> None:
    known = str(OTHER.public())

    async def answer(question: Question) -> bytes:
        return http(ALLOW if question.key == known else REFUSE)

    file = listing(tmp_path / "keys", ONE)
    async with at_a_url(answer) as url:
        flags = ("-verify-client-url", url.url, "-verify-any", "-disallow-app-names", "bad")
        async with admitting(file, *flags) as server:
            assert await try_login(server, ONE) is None
            assert url.asked == []
            assert await try_login(server, OTHER) is None
            assert await try_login(server, OTHER, app_name="bad") is not None  # a rejected application stays rejected
            assert await try_login(server, NodePrivate(bytes([9] * 32))) == TOLD
            told = (await logged_event(log, "client rejected"))["reason"]
            assert "not in" in told
            assert "not allowed" in told
            # A client removed from the list stays if another kind of check admits it.
            client = await Client.log_in(server, private=OTHER)
            listing(file, ONE, OTHER)
            await server.parts.reload()
            listing(file, ONE)
            await server.parts.reload()
            await stays(client)


async def test_a_list_half_written_at_a_reload_disconnects_no_client(tmp_path: Path) -> None:
    file = listing(tmp_path / "keys", OTHER, ONE)
    whole = file.read_bytes()
    first_line = whole.index(b"\n") + 1
    async with admitting(file) as server:
        client = await Client.log_in(server, private=ONE)
        with file.open("wb", buffering=0) as writer:
            writer.write(whole[:first_line])
            reloading = asyncio.create_task(server.parts.reload())
            await asyncio.sleep(LOOK_AGAIN_SECONDS / 5)
            writer.write(whole[first_line:])
            assert not await reloading
        await stays(client)
        assert await try_login(server, ONE) is None


async def test_a_list_that_is_written_all_the_time_keeps_its_last_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowlist, "MOST_LOOKS", 2)
    monkeypatch.setattr(allowlist, "LOOK_AGAIN_SECONDS", 0.2)
    file = listing(tmp_path / "keys", ONE)
    async with admitting(file) as server:
        client = await Client.log_in(server, private=ONE)

        async def write() -> None:
            while True:
                listing(file)
                await asyncio.sleep(0.01)

        writing = asyncio.create_task(write())
        failed = await server.parts.reload()
        writing.cancel()
        assert "still being written" in failed["the allowed keys"]
        await stays(client)
