"""Files that are replaced, truncated or half written while the relay reads: the last valid version stays in force."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex

import pytest
from beside import Beside, Target, for_seconds
from derpwire import Client
from relays import OurDerper, Relay

pytest_plugins = ["attacktable"]

RATES = json.dumps({"PerClientRateLimitBytesPerSec": 50_000_000, "PerClientRateBurstBytes": 100_000_000}).encode()
PAUSE = 0.02  # seconds between two reloads
Write = Callable[[Path, bytes], None]


def in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def by_rename(path: Path, data: bytes) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(data)
    other.replace(path)


def in_halves(path: Path, data: bytes) -> None:
    """Truncate, write one half, reload, write the rest, as an editor on a slow disk does."""
    with path.open("wb", buffering=0) as file:
        file.write(data[: len(data) // 2])
        os.fsync(file.fileno())
        file.write(data[len(data) // 2 :])


def after_removal(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


WRITES = (in_place, by_rename, in_halves, after_removal)


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__.replace("_", " "))
def test_rate_limits_rewritten_while_they_are_reloaded(beside: Beside, write: Write) -> None:
    """Go's relay reloads rate limits on SIGHUP, too."""

    def start(kind: type[Relay], folder: Path, flags: Sequence[str]) -> Relay:
        (folder / "rates.json").write_bytes(RATES)
        return kind(folder, tls=True, flags=(*flags, "-rate-config", str(folder / "rates.json")))

    def attack(target: Target) -> str:
        count = 0
        for _ in for_seconds():
            os.kill(target.relay.pid, signal.SIGHUP)
            write(target.relay.folder / "rates.json", RATES)
            time.sleep(PAUSE)
            count += 1
        target.relay.wait_for_log("(?i)reload|rate")
        return f"{count} times"

    name = f"rate limits written {write.__name__.replace('_', ' ')}, SIGHUP at each write"
    beside(name, attack, start=start).ours.is_unharmed()


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__.replace("_", " "))
def test_an_allow_list_rewritten_without_end_refuses_no_allowed_client(tmp_path: Path, write: Write) -> None:
    """Each version has the client's key at its end, so a partly read list would reject the client."""
    allowed = tmp_path / "allowed"
    allowed.write_bytes(b"")
    with OurDerper(tmp_path, flags=("-allow-keys", str(allowed))) as relay:
        client = Client(Target(relay, "plain", None).door.connect())
        with client:
            text = b"".join(b"nodekey:%s\n" % token_hex(32).encode() for _ in range(2_000))
            allowed.write_bytes(text + f"{client.key}\n".encode())
            os.kill(relay.pid, signal.SIGHUP)
            relay.wait_for_log("reloaded.*allowed keys")
            logins = 0
            for _ in for_seconds():
                write(allowed, text + f"{client.key}\n".encode())
                os.kill(relay.pid, signal.SIGHUP)
                time.sleep(PAUSE)
                Client.join(Target(relay, "plain", None).door, client.private).wire.close()
                logins += 1
        assert logins
        assert relay.alive()


def test_a_certificate_cut_short_leaves_the_old_one_in_force(beside: Beside) -> None:
    def attack(target: Target) -> str:
        certificate = target.relay.certificate
        whole = certificate.read_bytes()
        for number, length in enumerate((len(whole) // 2, 0, 1, None), 1):
            if length is None:
                certificate.unlink()
            else:
                certificate.write_bytes(whole[:length])
            os.kill(target.relay.pid, signal.SIGHUP)
            target.relay.wait_for_log(f"(?s)(reload failed; the previous state stays in force.*){{{number}}}")
            target.door.connect().close()
        certificate.write_bytes(whole)
        return "it served the old one"

    # Go's relay reads certificates only at its start, and SIGHUP ends it.
    beside("certificate file cut short, emptied, removed", attack, go=False).ours.is_unharmed()
