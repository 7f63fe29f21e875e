"""The machine's clock is set ahead and back by more than a certificate's life while the relay serves.

A preloaded library sets the clock of our process. Go's server calls the kernel without the C library, so it is not
tested here.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from ssl import SSLSocket

import pytest
from beside import TLS_WIRES, Beside, Target, Wire
from disks import fill, root_only
from relays import OurDerper, Relay

pytest_plugins = ["attacktable"]

LOOK_SECONDS = 0.5  # between two checks of the certificate; the default is three seconds
LOOKING_OFTEN = f"""
import sys
from derper.cli.entry import derper
from derper.server.certificates import manual
manual.LOOK_SECONDS = {LOOK_SECONDS}
sys.exit(derper())
"""

JUMPS = ("+330d", "+4000d", "-4000d", "+0")  # the certificate is good for 365 days
JUMP_NAME = "the clock jumps 330 days and 11 years ahead, 22 back, and to the right time"


def set_clock(relay: Relay, offset: str) -> None:
    """Set the relay's clock to this offset from the right time."""
    other = relay.folder / "clock.new"
    other.write_text(f"{offset}\n")
    other.replace(relay.folder / "clock")


class FrequentChecks(OurDerper):
    """Our relay, which checks its certificate every `LOOK_SECONDS`."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", LOOKING_OFTEN]


def with_a_clock(folder: Path, flags: Sequence[str]) -> Relay:
    """Return a relay whose clock `set_clock` can set."""
    library = subprocess.run(
        ["faketime", "-f", "+0", "printenv", "LD_PRELOAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    env = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    relay = FrequentChecks(folder, tls=True, flags=flags, env=env)
    set_clock(relay, "+0")
    return relay


def shown(target: Target) -> bytes | None:
    """Return the certificate that clients get."""
    with target.door.connect() as connection:
        assert isinstance(connection.sock, SSLSocket)
        return connection.sock.getpeercert(binary_form=True)


def jump(target: Target) -> None:
    """Set the clock to each offset, and wait after each until the relay has checked its certificate."""
    before = shown(target)
    for offset in JUMPS:
        set_clock(target.relay, offset)
        time.sleep(LOOK_SECONDS + 1)
        assert shown(target) == before, f"at {offset} clients that pin the certificate were locked out"


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_a_clock_that_jumps_both_ways(beside: Beside, wire: Wire) -> None:
    def start(_kind: type[Relay], folder: Path, flags: Sequence[str]) -> Relay:
        return with_a_clock(folder, flags)

    def attack(target: Target) -> str:
        jump(target)
        target.relay.wait_for_log("expires soon")
        return "it shows the same certificate"

    beside(JUMP_NAME, attack, wire=wire, go=False, start=start).ours.is_unharmed()


@root_only
def test_the_next_certificate_on_a_full_disk(beside: Beside, disk: Path) -> None:
    def start(_kind: type[Relay], folder: Path, flags: Sequence[str]) -> Relay:
        return with_a_clock(folder, (*flags, "-certdir", str(disk)))

    def attack(target: Target) -> str:
        fill(disk)
        jump(target)
        target.relay.wait_for_log("cannot create the next self-signed certificate.*No space left on device")
        assert not list(disk.glob(".*")), "half of a file was left behind"
        return "it shows the same certificate"

    beside("the next certificate's files on a full disk", attack, go=False, start=start).ours.is_unharmed()
