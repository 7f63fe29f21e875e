"""The first second of a process: standard descriptors that are closed, signals before the program is imported."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from derpwire import HOST, SECONDS, RelayAddress
from relays import free_port
from serving import START_SECONDS
from test_blocked_output import BlockedServer


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=lambda closed: "+".join(map(str, closed)))
@pytest.mark.parametrize("program", ["-m derper", "-c 'from derper.cli.entry import derper; exit(derper())'"])
def test_it_serves_with_standard_descriptors_closed(closed: tuple[int, ...], program: str, tmp_path: Path) -> None:
    port = free_port()
    redirections = " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in closed)
    line = f'exec {sys.executable} {program} -a {HOST}:{port} -stun=false -shards 1 -c "{tmp_path}/key" {redirections}'
    process = subprocess.Popen(["bash", "-c", line], env=os.environ | {"HOME": str(tmp_path)}, stderr=subprocess.PIPE)
    try:
        server = BlockedServer(process, RelayAddress(port))
        server.wait_until_it_serves()
        folder = Path(f"/proc/{process.pid}/fd")
        assert {str((folder / str(fd)).readlink()) for fd in closed} == {"/dev/null"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        _, said = process.communicate()
    assert (b"event=serving" in said) is (2 not in closed)


# Its first import after `startup.begin` reports this point, and lasts until the signal arrives.
SLOW_IMPORT = """
import importlib.abc, os, sys, time

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "derper.cli.derper":
            os.write(1, b"importing")
            time.sleep(60)

sys.meta_path.insert(0, Slow())
from derper.cli.entry import derper
sys.exit(derper())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pid_1_that_is_still_importing_ends_on_a_signal(number: signal.Signals) -> None:
    words = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", sys.executable, "-c"]
    with subprocess.Popen([*words, SLOW_IMPORT], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(9) == b"importing", process.communicate()
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert len(children) == 1
            os.kill(int(children[0]), number)
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()


LAZY = (
    "asyncio",
    "aiohttp",
    "structlog",
    "cryptography",
    "ssl",
    "rich",
    "dns",
    "importlib.metadata",
    "derper.dataplane",
)


def test_the_version_is_shown_without_importing_the_server() -> None:
    code = (
        "import sys; sys.argv[1:] = ['-version']; from derper.cli.entry import derper; code = derper(); "
        f"sys.stdout.write(' '.join(name for name in {LAZY} if name in sys.modules)); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=START_SECONDS, check=True
    )
    version, *imported = done.stdout.splitlines()
    assert version.startswith("derper ")
    assert imported == []
