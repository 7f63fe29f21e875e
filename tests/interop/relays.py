"""DERP servers as separate processes: the reference's and ours, started in the same way.

A relay listens on 127.0.0.1, plain or with TLS and a self-signed certificate; both servers have the same flags and log
their pin in the same line. Used as a context manager, it is ready when the block begins and is stopped after the block;
if it died before, that is an error.
"""

import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from os import environ
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from parts import program

HOST: Final = "127.0.0.1"
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
LOOK_AGAIN_SECONDS: Final = 0.01
MAP_LINE: Final = r'"CertName":"(sha256-raw:[0-9a-f]{64})"'


class RelayError(Exception):
    """A server did not start, died, or did not stop; the message ends with its log."""


class Relay:
    """One server process; a subclass sets the program.

    Args:
        folder: for its key, certificates and log; created if missing. A relay that is started again with the same
            folder has the same identity.
        tls: serve TLS with a self-signed certificate (TLS 1.2 and 1.3), else plain HTTP.
        flags: further flags. STUN is off unless they enable it; they override the same default flags.
        env: added to this process's environment.
        before: words before the command, such as `prlimit` with its options.
    """

    name: ClassVar[str]

    def __init__(
        self,
        folder: Path,
        *,
        tls: bool = False,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.tls = tls
        self.port = 0
        self._flags = flags
        self._env = environ | (env or {})
        self._before = before
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return the command without its flags."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The URL for clients, without a path."""
        return f"{'https' if self.tls else 'http'}://{HOST}:{self.port}"

    @property
    def pin(self) -> str:
        """The certificate's `CertName` for a DERP map, as the server logged it; empty without TLS."""
        if not self.tls:
            return ""
        return self.wait_for_log(MAP_LINE)[1]

    @property
    def certificate(self) -> Path:
        """The PEM file of its self-signed certificate."""
        return self.folder / "certs" / f"{HOST}.crt"

    @property
    def pid(self) -> int:
        return self._running().pid

    def log(self) -> str:
        """Return all that the server has written so far."""
        return self._log_path().read_text(errors="replace")

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_for_log(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """Wait for a match of `pattern` in the log; return the first one."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.log())):
            if self._exited_within(LOOK_AGAIN_SECONDS) or time.monotonic() > deadline:
                raise RelayError(self._told(f"did not log {pattern!r}"))
        return found

    def start(self) -> None:
        """Start the server on a free port; return when it accepts connections there."""
        for last_try in (False, False, False, True):
            self.port = free_port()
            self._launch()
            if self._listens_in_time():
                return
            if last_try or self.alive() or "address already in use" not in self.log().lower():
                message = self._told("did not start")
                self.kill()
                raise RelayError(message)

    def restart(self) -> None:
        """Stop the server cleanly and start it again on the same port."""
        if (code := self.stop()) != 0:
            raise RelayError(self._told(f"ended with exit code {code} after SIGTERM"))
        self.start_again()

    def start_again(self) -> None:
        """Start the server again, with the same port and identity."""
        self._launch()
        if not self._listens_in_time():
            message = self._told("did not start again")
            self.kill()
            raise RelayError(message)

    def stop(self) -> int:
        """Stop the server with SIGTERM; return its exit code.

        Raises:
            RelayError: the server died before, or does not stop in time.
        """
        process = self._running()
        if process.poll() is not None:
            message = self._told(f"died with exit code {process.returncode}")
            self._process = None
            raise RelayError(message)
        process.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            message = self._told(f"did not stop within {STOP_SECONDS:.0f} s of SIGTERM")
            self.kill()
            raise RelayError(message) from error
        self._process = None
        return code

    def kill(self) -> None:
        """Kill the server at once, without a drain."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and (code := self.stop()) != 0:
            raise RelayError(self._told(f"ended with exit code {code} after SIGTERM"))

    def _launch(self) -> None:
        certs = self.folder / "certs"
        certs.mkdir(parents=True, exist_ok=True)
        mode = ("manual", HOST) if self.tls else ("letsencrypt", "localhost")
        command = [
            *self._before,
            *self.command(),
            *("-certmode", mode[0], "-hostname", mode[1], "-certdir", str(certs)),
            *("-a", f"{HOST}:{self.port}", "-http-port", "-1", "-stun=false"),
            *("-c", str(self.folder / "derper.key")),
            *self._flags,
        ]
        with self._log_path().open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self._env, cwd=self.folder
            )

    def _listens_in_time(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, self.port)) == 0:
                    return self.alive()
            if self._exited_within(LOOK_AGAIN_SECONDS):
                return False
        return False

    def _exited_within(self, seconds: float) -> bool:
        try:
            self._running().wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RelayError(f"{self.name} has not been started")
        return self._process

    def _log_path(self) -> Path:
        return self.folder / "log"

    def _told(self, what: str) -> str:
        return f"{self.name} {what}. Its log:\n{self.log()[-4000:]}"


class GoDerper(Relay):
    """The reference server, `tailscale.com/cmd/derper`."""

    name = "go"

    def command(self) -> list[str]:
        return [str(program("derper"))]


class OurDerper(Relay):
    """The server of this repository, in the interpreter that runs the tests."""

    name = "ours"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "derper"]


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now.

    It is below the kernel's range of ports for outgoing connections, so that none of the many connections of a test
    run gets it before the server does.
    """
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, low)  # noqa: S311 - a port is no secret
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        return port
