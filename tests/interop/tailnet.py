"""A separate tailnet for a test: Headscale, and real tailscaled nodes that know only one relay.

All programs listen on 127.0.0.1 and have their files in one folder. The nodes reach each other only over DERP, and need
no privileges: their network is in userspace.
"""

import base64
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from parts import program
from relays import HOST, Relay, free_port

from derper.protocol import NodePrivate

SECONDS: Final = 30.0
LOOK_AGAIN_SECONDS: Final = 0.05
REGION: Final = 900
HEADSCALE_YAML: Final = """
server_url: http://{host}:{port}
listen_addr: {host}:{port}
metrics_listen_addr: {host}:{metrics}
grpc_listen_addr: {host}:{grpc}
grpc_allow_insecure: true
noise: {{private_key_path: {folder}/noise.key}}
prefixes: {{v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48", allocation: sequential}}
derp:
  server: {{enabled: false}}
  urls: []
  paths: [{folder}/derp.yaml]
  auto_update_enabled: false
disable_check_updates: true
database: {{type: sqlite, sqlite: {{path: {folder}/db.sqlite}}}}
log: {{level: info}}
policy: {{mode: file, path: ""}}
dns: {{magic_dns: false, base_domain: tailnet.test, override_local_dns: false}}
unix_socket: {folder}/headscale.sock
"""
DERP_YAML: Final = """
regions:
  {region}:
    regionid: {region}
    regioncode: mine
    regionname: Mine
    nodes:
      - name: mine
        regionid: {region}
        hostname: {host}
        ipv4: {host}
        ipv6: none
        derpport: {port}
        stunport: {stun}
        certname: "{pin}"
"""


class TailnetError(AssertionError):
    """A program did not do what the test waited for; the message ends with its log."""


class Daemon:
    """A program with its own folder, which has its log."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, command: Sequence[object], **environ: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=os.environ | environ,
            )  # fmt: skip

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def wait_until(self, what: str, holds: Callable[[], object], seconds: float = SECONDS) -> None:
        """Wait until a condition holds, by polling."""
        deadline = time.monotonic() + seconds
        while not holds():
            if self._process is not None and self._process.poll() is not None:
                raise TailnetError(f"it died before {what}. Its log:\n{self.log()[-4000:]}")
            if time.monotonic() > deadline:
                raise TailnetError(f"{what}: not within {seconds:.0f} s. Its log:\n{self.log()[-4000:]}")
            time.sleep(LOOK_AGAIN_SECONDS)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Headscale(Daemon):
    """The control server; `port` is known before the start, so that a relay's flags can contain it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self, relay: Relay, stun_port: int) -> None:
        """Serve a tailnet whose DERP map has only this relay."""
        derp = DERP_YAML.format(region=REGION, host=HOST, port=relay.port, stun=stun_port, pin=relay.pin)
        (self.folder / "derp.yaml").write_text(derp)
        (self.folder / "config.yaml").write_text(
            HEADSCALE_YAML.format(host=HOST, port=self.port, metrics=free_port(), grpc=free_port(), folder=self.folder)
        )
        self.launch([program("headscale"), "-c", "config.yaml", "serve"])
        self.wait_until("it serves", lambda: _listens(self.port))
        self.run("users", "create", "tester")

    def run(self, *words: str) -> Any:  # noqa: ANN401  whatever JSON it answers with
        """Run one of Headscale's commands; return its JSON output."""
        done = subprocess.run(
            [program("headscale"), "-c", "config.yaml", *words, "-o", "json"],
            cwd=self.folder, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise TailnetError(f"headscale {' '.join(words)}: {done.stdout}{done.stderr}\n{self.log()[-4000:]}")
        return json.loads(done.stdout)

    def join_key(self) -> str:
        key: str = self.run("preauthkeys", "create", "--user", "1", "--reusable")["key"]
        return key


class Node(Daemon):
    """One tailscaled."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder)
        self.name = name
        self.socket = folder / "s"

    def start(self) -> None:
        self.launch(
            [program("tailscaled"), "--tun=userspace-networking", "--statedir", self.folder, "--socket", self.socket,
             "--port", "0", "--no-logs-no-support"],
            TS_DEBUG_ALWAYS_USE_DERP="1",
            TS_NO_LOGS_NO_SUPPORT="1",
        )  # fmt: skip
        self.wait_until("it listens", self.socket.exists)

    def join(self, headscale: Headscale, key: str) -> None:
        self.say("up", "--login-server", headscale.url, "--authkey", key, "--hostname", self.name, "--accept-dns=false",
                 "--timeout=30s")  # fmt: skip
        self.wait_until("it has a home", lambda: self.status()["Self"]["Relay"] == "mine")

    def say(self, *words: str) -> str:
        """Run the `tailscale` command with this node; return its output."""
        done = subprocess.run(
            self._command(*words), executable=program("tailscaled"),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * SECONDS, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise TailnetError(f"tailscale {' '.join(words)}: {done.stdout}{done.stderr}\n{self.log()[-4000:]}")
        return done.stdout

    def _command(self, *words: str) -> list[str]:
        """Return the `tailscale` command line: the daemon's program, called by that name."""
        return ["tailscale", "--socket", str(self.socket), *words]

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.say("status", "--json"))
        return status

    def knows(self, others: int) -> bool:
        """Return whether the node knows at least this number of other nodes."""
        return len(self.status()["Peer"] or ()) == others

    @property
    def ip(self) -> str:
        ip: str = self.status()["Self"]["TailscaleIPs"][0]
        return ip

    @property
    def key(self) -> str:
        key: str = self.status()["Self"]["PublicKey"]
        return key

    def private(self) -> NodePrivate:
        """Return its node key from its state file."""
        state = json.loads((self.folder / "tailscaled.state").read_bytes())
        profile = json.loads(base64.b64decode(next(state[name] for name in state if name.startswith("profile-"))))
        return NodePrivate.from_text(profile["Config"]["PrivateNodeKey"])

    def fetch(self, ip: str, port: int) -> bytes:
        """Read from a TCP port of another node until the end of the stream."""
        with subprocess.Popen(
            self._command("nc", ip, str(port)), executable=program("tailscaled"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            fetched = process.stdout.read()  # it ends when its standard input does, so that stays open
            process.stdin.close()
        return fetched


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
