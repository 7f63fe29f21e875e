import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from derper.cli.environment import Environment
from derper.cli.flags import DERPER_FLAGS
from derper.cli.goflags import parse
from derper.cli.settings import config_from
from derper.config import Mesh, MeshPeer
from derper.credentials import keys
from derper.credentials.keys import key_file_bytes, load_mesh_key, load_or_make_key
from derper.errors import ConfigError, ProtocolError
from derper.host.trusted import TrustedRoots
from derper.protocol.keys import MeshKey, NodePrivate
from derper.server.identity import Identity

KEY = "privkey:805b0f945c4290b62c129167006cd5d9c8f103f0317f8573f89263f8c9abf56a"
PUBLIC = "nodekey:0d3d9b217d31e0df4715346ae88633718af8beb578457ba85d08e12561831000"
MESH_KEY = "2787e8c010bbdaef0c60bcdf8e00078ea005f42366ed723938b115fa6a8619e1"
NO_ROOTS = TrustedRoots(None, ())
MESH_PEER = MeshPeer("a.test", 443, "a.test")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with capture_logs():
        yield


def load(*words: str, **environ: str) -> Identity:
    return Identity.load(config_from(parse(DERPER_FLAGS, words), Environment(environ, is_root=False, cores=1)))


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        load_or_make_key(path)
    return str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        f'{{\n\t"PrivateKey": "{KEY}"\n}}',
        f'{{"PrivateKey":"{KEY}"}}\n',
        f'{{"privatekey":"{KEY}","Other":[1]}}',
        f'{{"PrivateKey":"privkey:{KEY.removeprefix("privkey:").upper()}"}}',
    ],
)
def test_a_key_file_of_the_go_server_loads_and_is_not_changed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "derper.key"
    path.write_text(text)
    assert str(load("-a=:80", "-c", str(path)).public) == PUBLIC
    assert path.read_text() == text


def test_a_missing_key_file_is_created_as_by_the_go_server(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "derper.key"
    key = load_or_make_key(path)
    assert path.read_bytes() == f'{{\n\t"PrivateKey": "{key.to_text()}"\n}}'.encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["derper.key"]


def test_a_key_is_created_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "derper.key"
    assert load_or_make_key(path) == load_or_make_key(path)
    assert load_or_make_key(path) != load_or_make_key(tmp_path / "other.key")


def test_only_the_public_half_of_a_created_key_is_logged(tmp_path: Path) -> None:
    with capture_logs() as lines:
        key = load_or_make_key(tmp_path / "derper.key")
    assert key.public() in lines[0].values()
    assert key.raw.hex() not in repr(lines)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        KEY,
        "{}",
        '{"PrivateKey":null}',
        '{"PrivateKey":7}',
        '{"PrivateKey":""}',
        f'{{"PrivateKey":"{KEY[:-1]}"}}',
        f'{{"PrivateKey":"{KEY}"}} more',
        f'{{"PrivateKey":"privkey:{"0" * 64}"}}',
    ],
)
def test_an_invalid_key_file_is_a_start_up_error_and_never_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "derper.key"
    path.write_text(text)
    assert str(path) in refusal(path)
    assert path.read_text() == text


@given(st.binary())
def test_garbage_in_a_key_file_raises_only_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        keys.parse_key_file(data)


@given(st.binary(min_size=32, max_size=32).filter(any))
def test_every_key_is_read_back_unchanged(raw: bytes) -> None:
    assert keys.parse_key_file(key_file_bytes(NodePrivate(raw))) == NodePrivate(raw)


def test_an_error_never_shows_the_key(tmp_path: Path) -> None:
    path = tmp_path / "derper.key"
    path.write_text(f'{{"PrivateKey":"{KEY}0"}}')
    assert KEY not in refusal(path)


def test_a_directory_or_a_dangling_link_as_key_file_is_a_start_up_error(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nothing")
    assert "cannot be read" in refusal(link)
    assert link.is_symlink()


def test_a_path_below_a_file_is_a_start_up_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "Not a directory" in refusal(tmp_path / "file" / "derper.key")


def test_an_unwritable_path_is_a_start_up_error() -> None:
    assert "cannot be written" in refusal(Path("/proc/derper.key"))


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "derper.key"
    path.write_bytes(bytes(2 << 20))
    assert "more than" in refusal(path)


def test_dev_has_a_new_key_each_time_and_no_file() -> None:
    assert load("-dev").private != load("-dev").private


def test_dev_takes_the_mesh_key_from_the_environment() -> None:
    assert load("-dev").mesh_key is None
    assert load("-dev", TAILSCALE_DERPER_MESH_KEY=f"{MESH_KEY}\n").mesh_key == MeshKey.from_text(MESH_KEY)


@pytest.mark.parametrize("text", [MESH_KEY, f" {MESH_KEY}\n", MESH_KEY.upper()])
def test_the_mesh_key_is_read_from_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mesh.key"
    path.write_text(text)
    made = load("-a=:80", "-c", str(tmp_path / "derper.key"), "-mesh-psk-file", str(path))
    assert made.mesh_key == MeshKey.from_text(MESH_KEY)
    assert MESH_KEY not in repr(made)


@pytest.mark.parametrize("data", [b"", MESH_KEY[1:].encode(), b"\xff" * 64, b"meshkey:" + MESH_KEY.encode()])
def test_an_invalid_mesh_key_file_is_a_start_up_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "mesh.key"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="64 hex digits") as error:
        load_mesh_key(Mesh(path, ()), NO_ROOTS)
    assert str(path) in str(error.value)


def test_a_configured_mesh_key_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mesh key file"):
        load_mesh_key(Mesh(tmp_path / "mesh.key", ()), NO_ROOTS)


@pytest.mark.parametrize("source", [None, MeshKey(bytes(32))])
def test_without_a_mesh_key_or_with_the_zero_key_there_are_no_mesh_peers_and_no_links(
    source: MeshKey | None,
) -> None:
    assert load_mesh_key(Mesh(source, ()), NO_ROOTS) is None
    with pytest.raises(ConfigError, match="-mesh-with needs a mesh key"):
        load_mesh_key(Mesh(source, (MESH_PEER,)), NO_ROOTS)


def test_the_key_file_is_plain_json() -> None:
    assert json.loads(key_file_bytes(NodePrivate.from_text(KEY))) == {"PrivateKey": KEY}
