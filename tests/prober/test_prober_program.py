"""`derpprobe` as a process: flags, exit codes and the output of `-once`; also of the reference's prober."""

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from parts import program
from probed import ProbedRegion, command, config_of, derpprobe, map_file, started, surroundings
from relays import HOST

from derper.cli.probing import DERPPROBE_FLAGS
from derper.errors import ConfigError

GOOD: Final = sorted(
    ["derpmap-probe"]
    + [f"derp/test/900{node}/{what}" for node in "ab" for what in ("tls", "udp")]
    + [f"derp/test/900{node}/900{other}/{what}" for node in "ab" for other in "ab" for what in ("mesh", "bw")]
)
LINE: Final = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (good|bad): (\S+): (.*)$", re.MULTILINE)
DURATION: Final = re.compile(r"(\d+m)?[\d.]+(µs|ms|s)")


@pytest.fixture(scope="module", params=[("ours", "ours"), ("ours", "go"), ("go", "go")], ids="-".join)
def region(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProbedRegion]:
    with ProbedRegion(tmp_path_factory.mktemp("region"), *request.param) as made:
        asyncio.run(made.meet())
        yield made


def words(region: ProbedRegion) -> list[str]:
    return region.flags("-once", "-spread=false", "-mesh-psk-file", str(region.mesh_key), "-bw-interval=15s")


def test_every_line_about_a_healthy_region_is_good(region: ProbedRegion) -> None:
    done = derpprobe(*words(region), roots=region.authority.file)
    told = LINE.findall(done.stderr)
    assert [(verdict, name) for verdict, name, _ in told] == [("good", name) for name in GOOD]
    assert all(DURATION.fullmatch(took) for _, _, took in told)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_references_prober_finds_the_same_region_good(region: ProbedRegion) -> None:
    done = subprocess.run(
        [program("derpprobe"), *words(region)],
        capture_output=True,
        text=True,
        env=surroundings(region.authority.file),
        timeout=60,
        check=False,
    )
    assert [(verdict, name) for verdict, name, _ in LINE.findall(done.stderr)] == [("good", name) for name in GOOD]
    assert done.returncode == 0


def test_bad_probes_are_listed_after_good_ones_and_make_the_exit_code_one(tmp_path: Path) -> None:
    derp_map = map_file(tmp_path, [NODE_NOWHERE])
    done = derpprobe("-once", "-derp-map", derp_map, "-mesh-interval=0", "-stun-interval=1s")
    told = LINE.findall(done.stderr)
    assert [(verdict, name) for verdict, name, _ in told] == [
        ("good", "derpmap-probe"), ("bad", "derp/test/900a/tls"), ("bad", "derp/test/900a/udp")
    ]  # fmt: skip
    assert "Connection refused" in told[1][2]
    assert done.returncode == 1


NODE_NOWHERE: Final = {
    "Name": "900a", "RegionID": 900, "HostName": HOST, "IPv4": HOST, "DERPPort": 1, "STUNPort": 1
}  # fmt: skip


def test_a_script_gets_json(tmp_path: Path) -> None:
    done = derpprobe(
        "-once", "--json", "-derp-map", map_file(tmp_path, [NODE_NOWHERE]), "-mesh-interval=0", "-stun-interval=0"
    )
    told = json.loads(done.stdout)
    assert (told["good"], told["bad"], done.returncode) == (1, 1, 1)
    bad, good = told["probes"]
    assert (bad["name"], bad["class"], bad["good"]) == ("derp/test/900a/tls", "tls", False)
    assert "Connection refused" in bad["error"]
    assert bad["labels"] == {
        "class": "tls", "hostname": HOST, "name": "derp/test/900a/tls", "region": "test", "region_id": "900"
    }  # fmt: skip
    assert (good["name"], good["good"], good["error"]) == ("derpmap-probe", True, "")


def test_a_terminal_gets_a_table_with_remedies(tmp_path: Path) -> None:
    near, far = pty.openpty()
    flags = ("-once", "-derp-map", map_file(tmp_path, [NODE_NOWHERE]), "-mesh-interval=0", "-stun-interval=0")
    environ = surroundings(None) | {"COLUMNS": "150", "TERM": "xterm"}
    done = subprocess.run(command(*flags), stdout=far, stderr=subprocess.PIPE, env=environ, timeout=60, check=False)
    os.close(far)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", os.read(near, 65_536).decode())
    os.close(near)
    assert "2 probes, 1 bad" in shown
    assert re.search(r"^ *bad +derp/test/900a/tls .*Connection refused", shown, re.MULTILINE)
    assert re.search(r"^ *good +derpmap-probe ", shown, re.MULTILINE)
    assert "Renew its certificate" in shown
    assert done.returncode == 1


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_code_zero(which: signal.Signals, tmp_path: Path) -> None:
    with started("-derp-map", map_file(tmp_path, []), "-listen", f"{HOST}:0") as prober:
        prober.process.send_signal(which)
        assert prober.process.wait(10) == 0


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("-nope",), 2, "flag provided but not defined: -nope\n'derpprobe -h' lists all flags"),
        (("-interval", "often"), 2, 'invalid value "often" for flag -interval: parse error'),
        (("-listen", "nowhere"), 1, "the listen address 'nowhere' is not one"),
        (("-listen", "192.0.2.1:0"), 1, "-listen: cannot listen on 192.0.2.1:0"),
        (("-mesh-psk-file", "/nowhere/mesh.key"), 1, "the mesh key file /nowhere/mesh.key cannot be read"),
        (("-version",), 0, ""),
        (("-h",), 0, "Usage of derpprobe:"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_flags_have_their_exit_codes_and_messages(flags: tuple[str, ...], code: int, words: str) -> None:
    done = derpprobe(*flags)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-interval", "0"), "-interval is not positive"),
        (("-bw-interval", "1s", "-bw-probe-size-bytes", "0"), "-bw-probe-size-bytes is 0"),
        (("-bw-tun-ipv4-addr", "bogus"), "-bw-tun-ipv4-addr is 'bogus'"),
        (("-bw-tun-ipv4-addr", "10.0.0.0"), "give 10.0.0.1 or 10.0.0.2"),
        (("-qd-packets-per-second", "1", "-qd-packet-timeout", "0"), "-qd-packet-timeout is not positive"),
        (("-secrets-url", "ftp://x"), "-secrets-url is 'ftp://x'"),
        (("-json",), "give -once too"),
        (("-probe-keys",), "give -probe-key too"),
    ],
)
def test_invalid_settings_are_errors_of_one_sentence(flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config_of(None, *flags)
    assert words in str(refused.value)


def test_the_flags_and_their_defaults_are_the_references() -> None:
    told = subprocess.run([program("derpprobe"), "-h"], capture_output=True, text=True, check=True).stderr
    ours = derpprobe("-h").stderr
    theirs, mine = ({flag[0]: flag[1] for flag in USAGE.findall(text)} for text in (told, ours))
    for name in ("json", "probe-key", "probe-keys"):
        del mine[name]
    defaults = re.compile(r"\(default (\S+)\)$")
    assert mine.keys() == theirs.keys() == {flag.name for flag in DERPPROBE_FLAGS} - {"json", "probe-key", "probe-keys"}
    for name, text in theirs.items():
        wanted = defaults.findall(text.strip())
        if name != "secrets-cache-dir":  # ours is shown without the user's home
            assert defaults.findall(mine[name].strip()) == wanted, name


USAGE: Final = re.compile(r"^  -(\S+).*\n((?:    \t.*\n)+)", re.MULTILINE)


def test_probe_keys_are_stable_and_distinct(tmp_path: Path) -> None:
    key = tmp_path / "probe.key"
    derp_map = map_file(tmp_path, [NODE_NOWHERE, NODE_NOWHERE | {"Name": "900b"}])
    flags = ("-derp-map", derp_map, "-probe-key", str(key), "-probe-keys")
    first, again = derpprobe(*flags), derpprobe(*flags)
    assert first.stdout == again.stdout
    rows = [row.split() for row in first.stdout.splitlines()]
    assert len({row[0] for row in rows}) == len(rows) == 8
    assert all(re.fullmatch(r"nodekey:[0-9a-f]{64}", row[0]) for row in rows)
    assert rows[0][1:] == ["derp/test/900a/900a/mesh", "sender"]
    assert key.stat().st_mode & 0o777 == 0o600
