"""Certificates in the operator's files: reloaded after a change, and never replaced by an invalid certificate."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from issued import certificates_of, leaf
from live import SECONDS, Client, Server, config_of, serving
from made import make
from structlog.testing import capture_logs

from derper import log
from derper.config import Acme, CertMode, Tls
from derper.credentials import pem
from derper.credentials.pairs import Pair
from derper.credentials.pem import Certificate
from derper.dataplane import Serves
from derper.errors import ConfigError
from derper.protocol.frames import SendPacket
from derper.server.certificates import manual
from derper.server.certificates.acme.store import sec1
from derper.server.certificates.manual import ManualFiles

NAME = "derp.example.test"
ADDRESS = "192.0.2.1"
DAY = timedelta(days=1)
NOW = datetime.now(UTC).replace(microsecond=0)


def put(folder: Path, name: str = NAME, begins: datetime = NOW - DAY, life: timedelta = 30 * DAY) -> datetime:
    """Replace both files; return the new certificate's end."""
    key, chain = make(NAME, begins, life)
    (folder / f"{name}.key").write_bytes(sec1(key))
    (folder / f"{name}.crt").write_bytes(chain)
    return begins + life


class Files(ManualFiles):
    """The files of one host, with a settable clock and the last served certificate."""

    def __init__(self, folder: Path, host: str) -> None:
        self.now = NOW
        self.shown: Certificate | None = None
        tls = Tls(CertMode.MANUAL, host, folder, Acme())
        super().__init__(tls, self._note, lambda: self.now, lambda certificate: certificate.pin if tls.ip else "")

    def _note(self, _serves: Serves, certificate: Certificate | None) -> None:
        self.shown = certificate

    @property
    def end(self) -> datetime:
        assert self.shown is not None
        return self.shown.ends


@pytest.fixture
async def files(tmp_path: Path) -> Files:
    put(tmp_path)
    found = Files(tmp_path, NAME)
    await found.load()
    return found


async def test_new_files_are_served_after_the_next_check(tmp_path: Path, files: Files) -> None:
    before = files.end
    await files.look()
    assert files.end == before
    ends = put(tmp_path, life=60 * DAY)
    with capture_logs() as logs:
        await files.look()
    assert files.end == ends
    assert [line["log_level"] for line in logs] == ["info"]


async def test_a_file_without_its_match_waits_for_the_other_file(tmp_path: Path, files: Files) -> None:
    before = files.end
    key, chain = make(NAME, NOW - DAY, 60 * DAY)
    (tmp_path / f"{NAME}.key").write_bytes(sec1(key))
    with capture_logs() as logs:
        await files.look()
        (tmp_path / f"{NAME}.crt").write_bytes(chain[:200])
        await files.look()
        assert files.end == before
        (tmp_path / f"{NAME}.crt").write_bytes(chain)
        await files.look()
    assert files.end == NOW + 59 * DAY
    assert [line["log_level"] for line in logs] == ["info"]


@pytest.mark.parametrize(
    ("spoiled", "sentence"),
    [
        ("another key", "is not that of the certificate"),
        ("another name", "is not valid for"),
        ("ended", "certificate has expired"),
        ("not begun", "certificate is not yet valid"),
        ("half", "not one in PEM form"),
        ("gone", "cannot be read"),
        ("folder", "cannot be read"),
    ],
)
async def test_unusable_files_are_logged_once_and_the_old_certificate_stays(
    tmp_path: Path, files: Files, spoiled: str, sentence: str
) -> None:
    before = files.end
    crt = tmp_path / f"{NAME}.crt"
    match spoiled:
        case "another key":
            (tmp_path / f"{NAME}.key").write_bytes(sec1(make(NAME, NOW, DAY)[0]))
        case "another name":
            key, chain = make("other.example.test", NOW - DAY, 30 * DAY)
            (tmp_path / f"{NAME}.key").write_bytes(sec1(key))
            crt.write_bytes(chain)
        case "ended":
            put(tmp_path, begins=NOW - 30 * DAY, life=29 * DAY)
        case "not begun":
            put(tmp_path, begins=NOW + DAY)
        case "half":
            crt.write_bytes(crt.read_bytes()[:300])
        case "gone":
            crt.unlink()
        case _:
            crt.unlink()
            crt.mkdir()
    with capture_logs() as logs:
        for _ in range(4):
            await files.look()
    (line,) = logs
    assert line["log_level"] == "error"
    assert sentence in str(line["reason"])
    assert files.end == before
    (status,) = files.status()
    assert sentence in status.problem
    with pytest.raises(ConfigError, match=sentence):
        await files.reload()
    if crt.is_dir():
        crt.rmdir()
    ends = put(tmp_path, life=90 * DAY)
    await files.look()
    assert files.end == ends
    assert not files.status()[0].problem


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    put(tmp_path)
    config = config_of(tmp_path, "-certmode", "manual", "-certdir", str(tmp_path), "-hostname", NAME)
    async with serving(config) as started:
        yield started


async def test_new_files_do_not_affect_connected_clients(tmp_path: Path, server: Server) -> None:
    one, other = [await Client.log_in(server) for _ in range(2)]
    ends = put(tmp_path, life=60 * DAY)
    await server.parts.reload()
    assert (await leaf(server)).not_valid_after_utc == ends
    one.out.write(SendPacket(other.key, b"still here").encode())
    assert (await other.next_frame()).payload.endswith(b"still here")


async def test_a_running_server_reloads_new_files_by_itself(tmp_path: Path, server: Server) -> None:
    ends = put(tmp_path, life=60 * DAY)
    async with asyncio.timeout(SECONDS):
        while certificates_of(server).status()[0].ends != ends:  # noqa: ASYNC110  nothing tells of it but asking again
            await asyncio.sleep(0.05)
    assert (await leaf(server)).not_valid_after_utc == ends


async def test_the_next_self_signed_certificate_is_announced_long_before_its_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path, ADDRESS)
    await files.load()
    first = files.shown
    assert first is not None
    pair = Pair.named(tmp_path, ADDRESS)

    files.now = NOW + 304 * DAY
    await files.look()
    assert not pair.next.exists()

    files.now = NOW + 306 * DAY
    with capture_logs() as logs:
        await files.look()
        await files.look()  # logged once a day
    (line,) = logs
    assert line["days_left"] == 59
    assert line["takes_over"] == first.ends - 7 * DAY
    assert pair.next.exists()
    assert files.shown == first

    files.now = NOW + 359 * DAY
    await files.look()
    assert files.shown is not None
    assert files.shown.pin == first.pin, "the clock may be wrong for a while"
    monkeypatch.setattr(manual, "CLOCK_SETTLES_SECONDS", 0.0)
    files.now += DAY
    with capture_logs() as logs:
        await files.look()
    assert "serving the next self-signed certificate" in str(logs[-1]["event"])
    assert files.shown is not None
    assert files.shown.pin != first.pin
    assert files.shown.ends - files.now > 300 * DAY
    assert not pair.next.exists()


async def test_the_node_for_the_next_self_signed_certificate_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path, ADDRESS)
    await files.load()
    files.now = NOW + 320 * DAY
    lines: list[str] = []
    monkeypatch.setattr(log, "verbatim", lines.append)
    await files.look()
    pair = Pair.named(tmp_path, ADDRESS).next
    following = pem.load(pair.certificate, pair.key, ip_address(ADDRESS))
    assert lines == [following.pin]


async def test_an_operator_may_rename_the_next_self_signed_certificate_at_any_time(tmp_path: Path) -> None:
    files = Files(tmp_path, ADDRESS)
    await files.load()
    first = files.shown
    files.now = NOW + 320 * DAY
    await files.look()
    pair = Pair.named(tmp_path, ADDRESS)
    pair.next.key.replace(pair.key)
    await files.look()
    pair.next.certificate.replace(pair.certificate)
    await files.look()
    assert files.shown != first


async def test_a_crash_between_the_two_renames_is_repaired_at_the_start(tmp_path: Path) -> None:
    files = Files(tmp_path, ADDRESS)
    await files.load()
    files.now = NOW + 320 * DAY
    await files.look()
    pair = Pair.named(tmp_path, ADDRESS)
    pair.next.key.replace(pair.key)
    again = Files(tmp_path, ADDRESS)
    again.now = files.now
    await again.load()
    assert again.shown is not None
    assert again.shown != files.shown
