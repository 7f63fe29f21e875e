"""A server as a separate process: start, requests, stop. The fixtures with servers for tests are in `hall`."""

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from derpwire import HOST, SECONDS, RelayAddress
from slowcallbacks import slow_callbacks

from derper.credentials.keys import key_file_bytes
from derper.protocol.keys import MeshKey, NodePrivate

HERE: Final = Path(__file__).resolve().parent
VECTORS: Final = HERE.parent / "vectors"
START_SECONDS: Final = 30.0
SETUP_SECONDS: Final = 1.0  # servers with short timeouts: for a request head
LOGIN_SECONDS: Final = 0.7  # for a step of the login
WRITE_SECONDS: Final = 2.0  # for a client that reads nothing (the default)


@dataclass(frozen=True)
class Kind:
    """The kind of server that a test uses."""

    tls: bool
    shards: int

    def __str__(self) -> str:
        return f"{'tls' if self.tls else 'plain'}-{self.shards}"


KINDS: Final = tuple(Kind(tls, shards) for tls in (False, True) for shards in (1, 2))
TWO_KINDS: Final = (Kind(tls=False, shards=1), Kind(tls=True, shards=2))
"""For slow tests: each transport and each number of shards once."""

TLS_KINDS: Final = tuple(kind for kind in KINDS if kind.tls)


class ServerError(AssertionError):
    """A server did not do what the test waited for; the message ends with its log."""


class Server:
    """One `python -m derper`, on a free port of 127.0.0.1.

    Args:
        folder: for its key, certificates and mesh key; created if missing.
        flags: further flags; they override the same default flags.
        tls: use TLS with a certificate for `hostname`, self-signed if that is an IP address.
        tuning: start `tuned_derper.py` instead, with these settings.
        before: words before the command, for instance `prlimit`.
    """

    def __init__(  # noqa: PLR0913  keywords, each of which few tests need
        self,
        folder: Path,
        *flags: str,
        tls: bool = False,
        hostname: str = HOST,
        private: NodePrivate | None = None,
        mesh_key: MeshKey | None = None,
        tuning: Mapping[str, Any] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key_file = folder / "derper.key"
        if private is not None:
            key_file.write_bytes(key_file_bytes(private))
        meshing: tuple[str, ...] = ()
        if mesh_key is not None:
            (folder / "mesh.key").write_text(mesh_key.to_text())
            meshing = ("-mesh-psk-file", str(folder / "mesh.key"))
        self.folder = folder
        self.certificate = folder / f"{hostname}.crt"
        program = ["-m", "derper"] if tuning is None else [str(HERE / "tuned_derper.py"), json.dumps(dict(tuning))]
        mode = ("-certmode", "manual", "-certdir", str(folder), "-http-port", "-1") if tls else ()
        self.command = [
            *before, sys.executable, *program, *mode, "-hostname", hostname, "-a", f"{HOST}:0", "-stun=false",
            "-log-level", "debug", "-c", str(key_file), *meshing, *flags,
        ]  # fmt: skip
        self._tls = tls
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[str] = []
        self._said = threading.Condition()
        self._ended = False
        self._door: RelayAddress | None = None

    def start(self) -> Self:
        """Start the server; return when it serves."""
        home = {
            name: value for name, value in os.environ.items() if not name.startswith(("DERPER_", "TS_", "TAILSCALE_"))
        }
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=home | {"HOME": str(self.folder)},
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.logged(r"event=serving", seconds=START_SECONDS)
        return self

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "start it first"
        return self._process

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def port(self) -> int:
        return int(self.logged(r"event=serving .*address=\S+:(\d+)")[1])

    @property
    def door(self) -> RelayAddress:
        """The address for clients, which trust the certificate that the server has now."""
        if self._door is None:
            self._door = RelayAddress(self.port, client_context(self.certificate) if self._tls else None)
        return self._door

    def new_context(self) -> ssl.SSLContext:
        """Return TLS settings that a test may change."""
        return client_context(self.certificate)

    @property
    def raw_door(self) -> RelayAddress:
        """The same address without TLS, even if the server uses TLS."""
        return RelayAddress(self.port)

    def mark(self) -> int:
        """Return the log's current end, for later searches."""
        return len(self._lines)

    def log(self, since: int = 0) -> str:
        return "".join(self._lines[since:])

    def logged(self, pattern: str, since: int = 0, seconds: float = SECONDS) -> re.Match[str]:
        """Return the first line after `since` that contains the pattern, as soon as it is logged."""
        deadline = time.monotonic() + seconds
        wanted, at = re.compile(pattern), since
        with self._said:
            while True:
                for line in self._lines[at:]:
                    if found := wanted.search(line):
                        return found
                at = max(at, len(self._lines))
                if self._ended or not self._said.wait(deadline - time.monotonic()):
                    raise ServerError(f"the server did not log {pattern!r}, but:\n{self.log(since)[-4000:]}")

    def counted(self) -> dict[str, Any]:
        """Return a tuned server's current counters."""
        since = self.mark()
        self.process.send_signal(signal.SIGUSR2)
        counted: dict[str, Any] = json.loads(self.logged(r"^counted (.*)", since)[1])
        return counted

    def memory(self) -> int:
        """Return the server's resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def closed_its_log(self) -> None:
        """Wait until the server and all its successors have closed the log."""
        with self._said:
            assert self._said.wait_for(lambda: self._ended, SECONDS), "somebody still writes to the log"

    def exit_code(self, seconds: float = SECONDS) -> int:
        """Wait until the server ends by itself; return its exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ServerError(f"the server did not end within {seconds:.0f} s:\n{self.log()[-4000:]}") from None
        with self._said:
            self._said.wait_for(lambda: self._ended, SECONDS)
        return code

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop the process and return its exit code; kill it and fail if it does not stop."""
        if not self.alive:
            raise ServerError(f"the server had ended with {self.process.returncode} before:\n{self.log()[-4000:]}")
        self.process.send_signal(how)
        try:
            code = self.exit_code()
        finally:
            self.kill()
        slow = slow_callbacks(self.log())  # only a tuned server logs them
        assert not slow, slow
        return code

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alive and error is None:
            code = self.stop()
            assert code == 0, f"exit code {code} after SIGTERM:\n{self.log()[-4000:]}"
        self.kill()

    def _read(self) -> None:
        stream = self.process.stderr
        assert stream is not None
        with stream:
            for line in stream:
                with self._said:
                    self._lines.append(line)
                    self._said.notify_all()
        with self._said:
            self._ended = True
            self._said.notify_all()


def client_context(certificate: Path) -> ssl.SSLContext:
    """Trust one self-signed certificate."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def vectors(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return loaded


class Recorded(Protocol):
    """A function that returns the server with a name, started on its first use."""

    def __call__(
        self, name: str, *flags: str, tls: bool = False, with_mesh_key: bool = True, private: str = ""
    ) -> Server: ...
