"""When the main listener uses TLS, and the errors about it."""

import os
import subprocess
from pathlib import Path

import pytest
from live import config_of
from serving import Server

pytest_plugins = ["ca"]


@pytest.mark.parametrize(
    ("flags", "tls"),
    [
        (("-a", ":443"), True),
        (("-a", ":8443"), False),
        (("-a", ":8443", "-certmode", "manual"), True),
        (("-a", ":8443", "-tls", "on"), True),
        (("-a", ":443", "-tls", "off"), False),
        (("-a", ":8443", "-certmode", "manual", "-tls=off"), False),
        (("-a", ":8443", "-tls="), False),
        (("-dev",), False),
    ],
    ids=str,
)
def test_the_port_decides_unless_a_flag_sets_tls(tmp_path: Path, flags: tuple[str, ...], tls: bool) -> None:  # noqa: FBT001  a parameter of the test
    config = config_of(tmp_path, "-http-port", "80", "-certdir", str(tmp_path), *flags)
    assert config.serves_tls == tls
    assert (config.http_address is not None) == tls


@pytest.mark.parametrize("asked", [True, False])
def test_plain_http_despite_certificate_flags_is_logged(tmp_path: Path, asked: bool) -> None:  # noqa: FBT001
    with Server(tmp_path, *(("-certmode", "letsencrypt") if asked else ())) as server:
        assert ("the main listener is plain HTTP" in server.log()) == asked


def test_a_missing_external_account_key_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    account = ("-certmode", "gcp", "-acme-email", "a@b.test", "-acme-eab-kid", "k")
    said = start(tmp_path, *account, "-acme-eab-key-file", str(tmp_path / "none"))
    assert "cannot be read (No such file or directory)" in said


def test_invalid_roots_of_the_directory_are_an_error_of_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "roots").write_text("nothing\n")
    said = start(tmp_path, "-acme-directory", "https://ca.test/", "-acme-directory-ca", str(tmp_path / "roots"))
    assert "holds no certificate" in said


def start(folder: Path, *flags: str) -> str:
    """Start a server that cannot start; return its error output."""
    server = Server(folder, "-tls", "on", "-http-port", "-1", "-certdir", str(folder), *flags, hostname="derp.test")
    done = subprocess.run(server.command, capture_output=True, text=True, timeout=30, check=False, env=os.environ)
    assert done.returncode == 1
    assert done.stderr.count("\n") <= 3
    return done.stderr
