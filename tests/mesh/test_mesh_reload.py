"""The effects of a changed settings file and a changed mesh key on a running node after SIGHUP."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from authority import Authority
from derpwire import HOST, Client
from fakenode import FakeNode
from region import MESH_KEY, OurNode
from relays import free_port

from derper.protocol.keys import MeshKey

OTHER_KEY = MeshKey.from_text("cd" * 32)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "derper.toml"
    file.touch()
    return file


@pytest.fixture
def node(tmp_path: Path, settings: Path, authority: Authority) -> Iterator[OurNode]:
    node = OurNode(tmp_path / "node", free_port(), authority, "", "-settings", str(settings))
    at = node.command.index("-mesh-with")
    del node.command[at : at + 2]  # or it would override the file
    with node:
        yield node


def reload(node: OurNode, settings: Path, **entries: object) -> str:
    """Rewrite the file, send SIGHUP and return the node's log lines about it."""
    settings.write_text("".join(f"{name.replace('_', '-')} = {json.dumps(value)}\n" for name, value in entries.items()))
    mark = node.mark()
    os.kill(node.pid, signal.SIGHUP)
    return node.logged('.*what="the settings".*', mark)[0]


def test_nodes_are_added_and_removed_with_the_file_and_the_others_stay_linked(
    node: OurNode, settings: Path, tmp_path: Path, authority: Authority
) -> None:
    with FakeNode(tmp_path / "one", authority) as one, FakeNode(tmp_path / "two", authority) as two:
        first, second = f"{HOST}:{one.port}", f"{HOST}:{two.port}"
        assert "mesh_nodes=1" in reload(node, settings, mesh_with=first)
        with one.link() as kept:
            node.logged(f"event=.mesh link up.*{first}")
            assert "mesh_nodes=2" in reload(node, settings, mesh_with=[first, second])
            with two.link() as left:
                node.logged(f"event=.mesh link up.*{second}")
                reload(node, settings, mesh_with=[first])
                assert left.wire.some() == b""
            with Client.join(node.door) as client:
                kept.wire.send(b"")
                kept.announce(kept.key, client.key)
                client.ping()
            assert "mesh_nodes=0" in reload(node, settings)
            assert kept.wire.some() == b""


def test_a_new_mesh_key_is_sent_to_the_other_nodes_and_required_from_them(
    node: OurNode, settings: Path, tmp_path: Path, authority: Authority
) -> None:
    with FakeNode(tmp_path / "one", authority) as one:
        mesh_with = f"{HOST}:{one.port}"
        reload(node, settings, mesh_with=mesh_with)
        with one.link() as link:
            assert link.mesh_key == MESH_KEY
            (node.folder / "mesh.key").write_text(OTHER_KEY.to_text())
            assert "mesh_key=changed" in reload(node, settings, mesh_with=mesh_with)
            assert link.wire.some() == b""
        with one.link() as link:
            assert link.mesh_key == OTHER_KEY


def test_settings_that_need_a_restart_are_named_and_an_invalid_file_changes_nothing(
    node: OurNode, settings: Path
) -> None:
    told = reload(node, settings, log_level="debug", home="blank")
    assert "log_level=debug" in told
    assert "wait_for_a_restart=pages.home" in told
    told = reload(node, settings, hoem="blank")
    assert "level=error" in told
    assert "'hoem', which is not a setting; did you mean 'home'?" in told
