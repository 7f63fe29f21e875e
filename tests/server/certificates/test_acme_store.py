"""ACME's files on disk: a crash at any step leaves each file complete or absent."""

import os
import stat
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from made import make

from derper.credentials.pem import Host
from derper.errors import ConfigError
from derper.server.certificates.acme.store import ACCOUNT, Store

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
HOSTS: tuple[Host, ...] = ("derp.example.test", ip_address("192.0.2.1"), ip_address("2001:db8::1"))
STEPS = 40
_DIED = 17


def dying_at(step: int, work: Callable[[], object]) -> bool:
    """Run `work` in a process that dies before its nth system call that changes files; return whether it died."""
    with warnings.catch_warnings():
        # Newer interpreters warn of a fork in a process with threads; this child runs only the work.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        calls = 0

        def before(call: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  any call
                nonlocal calls
                calls += 1
                if calls == step:
                    os._exit(_DIED)
                return call(*args, **kwargs)

            return counted

        for name in ("open", "fchmod", "fsync", "replace", "rename", "mkdir", "unlink"):
            setattr(os, name, before(getattr(os, name)))
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == _DIED


@pytest.mark.parametrize("host", HOSTS, ids=str)
def test_a_certificate_survives_a_crash_at_any_step_of_storing_the_next(tmp_path: Path, host: Host) -> None:
    old, new = (make(host, NOW - DAY, life) for life in (30 * DAY, 60 * DAY))
    seen = set()
    for step in range(1, STEPS):
        store = Store(tmp_path / str(step))
        store.save(host, *old)
        died = dying_at(step, lambda store=store: store.save(host, *new))  # type: ignore[misc]  # of this turn
        found = store.load(host)
        assert found is not None, f"nothing is left after a crash before step {step}"
        seen.add(found.life)
        store.save(host, *new)  # the remains of the crash do not disturb the next save
        again = store.load(host)
        assert again is not None
        assert again.life == 60 * DAY
        if not died:
            break
    else:
        raise AssertionError("the work has more steps than were tried")
    assert seen == {30 * DAY, 60 * DAY}
    assert step > 5


def test_the_account_key_survives_a_crash_at_any_step_of_its_creation(tmp_path: Path) -> None:
    for step in range(1, STEPS):
        store = Store(tmp_path / str(step))
        died = dying_at(step, store.account_key)
        first, second = store.account_key(), store.account_key()
        assert first.public_key() == second.public_key()
        if not died:
            break
    assert step > 3


def test_an_unreadable_account_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / ACCOUNT
    path.write_text("-----BEGIN EC PRIVATE KEY-----\nhalf of i")
    with pytest.raises(ConfigError, match="is not one in PEM form"):
        Store(tmp_path).account_key()
    assert path.read_text().endswith("half of i")


@pytest.mark.parametrize("host", HOSTS, ids=str)
def test_the_files_have_the_same_names_as_the_go_servers(tmp_path: Path, host: Host) -> None:
    Store(tmp_path).save(host, *make(host, NOW, DAY))
    wanted = {
        HOSTS[0]: ["derp.example.test"],
        HOSTS[1]: ["192.0.2.1.crt", "192.0.2.1.key"],
        HOSTS[2]: ["2001.db8..1.crt", "2001.db8..1.key"],
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == wanted[host]
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 or path.suffix == ".crt"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 5_000_000),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("/proc/self/mem")),
    ],
    ids=["half", "empty", "huge", "folder", "unreadable"],
)
def test_an_unusable_file_counts_as_absent(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    store, host = Store(tmp_path), "derp.example.test"
    store.save(host, *make(host, NOW - DAY, 30 * DAY))
    spoil(tmp_path / host)
    assert store.load(host) is None


def test_a_certificate_for_another_name_counts_as_absent(tmp_path: Path) -> None:
    store, host = Store(tmp_path), "derp.example.test"
    store.save(host, *make("other.example.test", NOW - DAY, 30 * DAY))
    assert store.load(host) is None


@pytest.mark.parametrize("begins", [NOW - 31 * DAY, NOW + DAY], ids=["expired", "not yet valid"])
def test_a_certificate_outside_its_validity_is_kept(tmp_path: Path, begins: datetime) -> None:
    store, host = Store(tmp_path), "derp.example.test"
    store.save(host, *make(host, begins, 30 * DAY))
    kept = store.load(host)
    assert kept is not None
    assert kept.begins == begins


def test_an_unwritable_directory_is_an_error_of_one_sentence_and_keeps_its_files(tmp_path: Path) -> None:
    host = "derp.example.test"
    with pytest.raises(ConfigError, match="cannot be written"):
        Store(Path("/proc/certs")).save(host, *make(host, NOW, DAY))
    (tmp_path / host).mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        Store(tmp_path).save(host, *make(host, NOW, DAY))
    assert [path.name for path in tmp_path.iterdir()] == [host]
