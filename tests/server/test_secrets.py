"""The cache file of the last secret: its use, and the start-up errors."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from derper.config import Mesh, SecretsServer
from derper.credentials import secrets
from derper.credentials.keys import load_mesh_key
from derper.errors import ConfigError
from derper.host import files
from derper.host.trusted import TrustedRoots
from derper.protocol.keys import MeshKey

MESH_KEY = "2787e8c010bbdaef0c60bcdf8e00078ea005f42366ed723938b115fa6a8619e1"
NAME = "prod/derp/meshkey"
NO_ROOTS = TrustedRoots(None, ())
ASKED = b"what the server says"


@pytest.fixture(autouse=True)
def log() -> Iterator[list[EventDict]]:
    with capture_logs() as lines:
        yield lines


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer each request to the server with `ASKED`; `tests/interop/test_real_setec.py` uses the real one."""

    async def answer(_server: SecretsServer, _roots: TrustedRoots, _patience: float | None) -> secrets.Secret:
        return secrets.Secret(ASKED, 7)

    monkeypatch.setattr(secrets, "_wait_for", answer)


def kept(value: str, name: str = NAME) -> str:
    secret = {"Value": base64.b64encode(value.encode()).decode(), "Version": 3}
    return json.dumps({name: {"secret": secret, "lastAccess": "1750000000"}})


def load(path: Path | None) -> bytes:
    return secrets.load(SecretsServer("http://127.0.0.1:1", NAME, path), NO_ROOTS)


def test_a_secret_in_the_cache_is_used_without_a_request(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.write_text(kept(f" {MESH_KEY}\n"))
    source = SecretsServer("http://127.0.0.1:1", NAME, path)
    assert load_mesh_key(Mesh(source, ()), NO_ROOTS) == MeshKey.from_text(MESH_KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        kept(MESH_KEY)[:-3],
        json.dumps({NAME: 1}),
        json.dumps({NAME: {"secret": None}}),
        json.dumps({NAME: {"secret": {"Value": "***", "Version": 1}}}),
        json.dumps({NAME: {"secret": {"Value": 5, "Version": 1}}}),
    ],
)
def test_an_unusable_cache_is_ignored_with_a_log_line(tmp_path: Path, log: list[EventDict], text: str) -> None:
    path = tmp_path / "cache"
    path.write_text(text)
    assert load(path) == ASKED
    assert "the secrets cache is unusable" in [line["event"] for line in log]
    log.clear()
    assert load(path) == ASKED
    assert log == []  # it was written again


def test_other_secrets_in_the_cache_stay_there(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.write_text(kept("else", "some/other"))
    assert load(path) == ASKED
    entries = json.loads(path.read_text())
    assert entries["some/other"] == json.loads(kept("else", "some/other"))["some/other"]
    assert entries[NAME]["secret"] == {"Value": base64.b64encode(ASKED).decode(), "Version": 7}


def test_an_unwritable_cache_does_not_prevent_the_start(
    tmp_path: Path, log: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ConfigError("the disk is full")

    monkeypatch.setattr(files, "write", fail)
    assert load(tmp_path / "cache") == ASKED
    assert "cannot store the secret in the cache" in [line["event"] for line in log]


def test_without_a_cache_the_server_is_asked_each_time() -> None:
    assert load(None) == ASKED


def test_a_directory_or_a_link_as_cache_is_a_start_up_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a regular file"):
        load(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    with pytest.raises(ConfigError, match="not a regular file"):
        load(tmp_path / "link")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="name another place"):
        load(tmp_path / "file" / "cache")


def test_an_invalid_secret_is_a_start_up_error_and_an_empty_one_means_no_mesh_key(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    source = SecretsServer("http://127.0.0.1:1", NAME, path)
    path.write_text(kept("secret!"))
    with pytest.raises(ConfigError, match="64 hex digits") as error:
        load_mesh_key(Mesh(source, ()), NO_ROOTS)
    assert "secret!" not in str(error.value)
    path.write_text(kept(""))
    assert load_mesh_key(Mesh(source, ()), NO_ROOTS) is None
