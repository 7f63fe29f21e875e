"""The files and programs in the pages are valid: real parsers and servers accept them."""

import ast
import asyncio
import json
import re
import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

from live import config_of, serving
from running import inline, json_of
from written import PAGES, snippets, the_command

import derper.client
from derper import errors
from derper.client import DerpClient, Options
from derper.prober.metrics import METRICS as OF_PROBER
from derper.server.admission.allowlist import load
from derper.server.debug.metrics import METRICS as OF_SERVER

METRIC = re.compile(r"(?<![\w/.$-])((?:derp|derper|derpprobe|stun|tls_listener|bootstrap_dns)_[a-z0-9_]+)(?![\w.-])")


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    (unit,) = snippets("docs/running.md", "ini")
    program = Path(sys.executable).with_name("derper")
    assert program.exists()
    ours, replaced = re.subn(r"(?<=^ExecStart=)\S+", str(program), unit, flags=re.MULTILINE)
    assert replaced == 1
    file = tmp_path / "derper.service"
    file.write_text(ours)

    def verified() -> subprocess.CompletedProcess[str]:
        command = ("systemd-analyze", "verify", "--man=no", str(file))
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = verified()
    about_it = [line for line in done.stderr.splitlines() if str(file) in line]
    assert (done.returncode, about_it) == (0, []), done.stderr
    file.write_text(ours.replace("WatchdogSec", "WatchdogSeconds"))
    assert "WatchdogSeconds" in verified().stderr  # it does look


def test_the_unit_leaves_the_relay_little_access(tmp_path: Path) -> None:
    (unit,) = snippets("docs/running.md", "ini")
    file = tmp_path / "derper.service"

    def rated(text: str, most: int) -> int:
        """Return 0 if the exposure, of 100, is at most that."""
        file.write_text(text)
        words = ("systemd-analyze", "security", "--no-pager", "--offline=yes", f"--threshold={most}", str(file))
        return subprocess.run(words, capture_output=True, check=False).returncode

    assert rated(unit, 20) == 0
    assert rated(unit.replace("DynamicUser=yes\n", ""), 20) != 0  # it does look


def test_the_unit_starts_restarts_and_owns_the_directories_that_it_names() -> None:
    (unit,) = snippets("docs/running.md", "ini")
    made = {
        f"{parent}/{name}"
        for parent, setting in (("/var/lib", "StateDirectory"), ("/run", "RuntimeDirectory"))
        for name in re.findall(rf"^{setting}=(\S+)$", unit, re.MULTILINE)
    }
    words = the_command("docs/running.md", "-certdir")
    named = {match[1] for word in words if (match := re.search(r"(/(?:var/lib|run)/[^/]+)/", word))}
    assert named == made
    assert re.search(r"^Restart=(always|on-failure)$", unit, re.MULTILINE)
    assert re.search(r"^\[Install\]\nWantedBy=multi-user\.target$", unit, re.MULTILINE)


def test_each_entry_of_the_settings_file_is_in_force(tmp_path: Path) -> None:
    (text,) = snippets("docs/running.md", "toml")
    file = tmp_path / "derper.toml"
    file.write_text(text)
    told = {
        entry["name"]: entry["value"]
        for entry in json_of(inline("settings", "-settings", str(file), "-c", str(tmp_path / "key"), "-json"))
        if entry["source"] == str(file)
    }
    assert told == {
        "-hostname": "derp.example.com",
        "-http-port": "80",
        "-tcp-write-timeout": "2s",
        "-mesh-psk-file": "/etc/derper/mesh.key",
        "-mesh-with": "derp1.example.com,derp2.example.com/10.0.0.2",
        "-log-format": "json",
        "-log-level": "info",
    }


async def test_the_limits_are_in_force(tmp_path: Path) -> None:
    (text,) = (text for text in snippets("docs/limits.md") if "PerKey" in text)
    file = tmp_path / "rates.json"
    file.write_text(text)
    wanted = json.loads(text)
    async with serving(config_of(tmp_path, "-rate-config", str(file))) as server:
        limit = await server.sample("derp_rate_limit_per_client_bytes_per_second")
        assert limit == wanted["PerClientRateLimitBytesPerSec"]
        assert await server.sample("derp_rate_limit_per_client_burst_bytes") == wanted["PerClientRateBurstBytes"]


def test_the_list_of_keys_is_read(tmp_path: Path) -> None:
    (text,) = (text for text in snippets("docs/admission.md") if "the phone" in text)
    file = tmp_path / "keys"
    file.write_text(textwrap.dedent(text))
    assert len(load(file)) == 1


async def test_the_clients_program_talks(tmp_path: Path) -> None:
    (code,) = snippets("docs/client.md", "python")
    said: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    async with serving(config_of(tmp_path)) as server, DerpClient(f"http://127.0.0.1:{server.port}") as friend:
        ours = code.replace("https://derp.example.com", f"http://127.0.0.1:{server.port}")
        assert ours != code
        program = compile(ours, "docs/client.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        names = {"friend": friend.key, "print": lambda *words: said.put_nowait(words)}
        running = asyncio.ensure_future(eval(program, names))  # noqa: S307  the page's own
        async with asyncio.timeout(20):
            (key,) = await said.get()
            packet = await friend.packet()
            assert (packet.source, packet.packet) == (key, b"hello")
            await friend.send(key, b"and back")
            assert await said.get() == (friend.key, b"and back")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_the_clients_options_and_names_are_those_of_the_page() -> None:
    text = PAGES["docs/client.md"].read_text()
    table = text.partition("| option | means |")[2].partition("\n\n")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == {field.name for field in fields(Options)}
    classes = set(re.findall(r"`([A-Z][a-z]+[A-Za-z]*)\b[^`]*`", text)) - {"CertName", "InsecureForTests"}
    assert len(classes) > 8
    assert {name for name in classes if not (hasattr(derper.client, name) or hasattr(errors, name))} == set()


def test_every_metric_that_a_page_names_is_one() -> None:
    known = {metric.name for metric in (*OF_SERVER, *OF_PROBER)} | {"derp_path"}  # a label
    named = {(page, name) for page, path in PAGES.items() for name in METRIC.findall(path.read_text())}
    assert len(named) > 70
    assert sorted((page, name) for page, name in named if name not in known) == []
