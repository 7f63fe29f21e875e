"""The process's environment, and the settings from environment variables alone, for both programs.

Other programs share the machine's variables, so an invalid one is ignored with a warning that names it. Variables of
our own (DERPER_…) and secrets are set for this program alone, so an invalid one is an error. `settings` combines flags
and variables.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Self, TypeVar

from derper.cli.values import decimal, directories, networks
from derper.config import FIRST_SOCKET, PREDECESSOR, DebugAccess, Supervision
from derper.errors import ConfigError, ProtocolError
from derper.govalues import parse_bool
from derper.host.memory import usable_memory
from derper.host.proxies import Proxies
from derper.host.trusted import TrustedRoots

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Environment:
    """The process's environment, passed as a value so that a test can replace it."""

    environ: Mapping[str, str]
    is_root: bool
    cores: int
    pid: int = 0
    parent: int = 0
    memory: int = 4 << 30  # bytes that the process may use
    ignored: dict[str, str] = field(default_factory=dict)  # warnings for the operator, by variable

    @classmethod
    def of_this_process(cls) -> Self:
        """Return the environment of the running process."""
        cores = len(os.sched_getaffinity(0))
        return cls(os.environ, os.geteuid() == 0, cores, os.getpid(), os.getppid(), usable_memory())

    def read(self, name: str, reader: Callable[[str], T], wanted: str) -> T | None:
        """Return a variable's value; `None` when it is unset or empty, or when `reader` rejects it, with a warning."""
        try:
            return self.must_read(name, reader, wanted)
        except ConfigError:
            self.ignore(name, wanted)
            return None

    def must_read(self, name: str, reader: Callable[[str], T], wanted: str) -> T | None:
        """Return a variable's value, `None` when it is unset or empty; raise `ConfigError` if `reader` rejects it."""
        text = self.environ.get(name, "")
        if not text:
            return None
        try:
            return reader(text)
        except (ValueError, ProtocolError):
            raise ConfigError(f"the environment variable {name} is not {wanted}; correct or unset it") from None

    def ignore(self, name: str, wanted: str) -> None:
        """Record that a variable has no effect because its value is not `wanted`."""
        self.ignored[name] = f"the environment variable {name} is not {wanted} and is ignored; correct or unset it"

    def is_set(self, name: str) -> bool:
        """Return a boolean variable, in Go's spellings."""
        return bool(self.read(name, parse_bool, "true or false"))

    def proxies(self) -> Proxies:
        """Return the proxies for outgoing requests."""
        proxies, unusable = Proxies.from_environ(self.environ)
        for name in unusable:
            self.ignore(name, "the URL of an http, https or socks5 proxy")
        return proxies

    def home(self, *parts: str) -> Path | None:
        """Return a path below the home directory."""
        home = self.environ.get("HOME")
        return Path(home, *parts) if home else None

    def cache(self, *parts: str) -> Path | None:
        """Return a path below the user's cache directory."""
        cache = self.environ.get("XDG_CACHE_HOME")
        return Path(cache, *parts) if cache else self.home(".cache", *parts)


def debug_access(environment: Environment) -> DebugAccess:
    """Return the access rules of the debug pages, for both programs."""
    return DebugAccess(
        address=environment.read("TS_ALLOW_DEBUG_IP", ip_address, "an IP address"),
        networks=environment.read("TS_DEBUG_TRUSTED_CIDRS", networks, "a list of networks such as 10.0.0.0/8") or (),
        key_file=environment.read("TS_DEBUG_KEY_PATH", Path, "a path"),
    )


def trusted_roots(environment: Environment) -> TrustedRoots:
    """Return the trusted roots of outgoing TLS, for both programs."""
    return TrustedRoots(
        file=environment.read("SSL_CERT_FILE", Path, "a path"),
        directories=environment.read("SSL_CERT_DIR", directories, "a list of paths") or (),
    )


def supervision(environment: Environment) -> Supervision:
    """Return the settings that are for this process: an inherited variable may be for another one."""
    environ = environment.environ
    succeeds = environ.get(PREDECESSOR) == str(environment.parent)
    sockets: tuple[str, ...] = ()
    if succeeds or environ.get("LISTEN_PID") == str(environment.pid):
        number = environment.read("LISTEN_FDS", decimal, "a number") or 0
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        sockets = tuple(names[at] if at < len(names) else "" for at in range(number))
    watchdog = None
    if environ.get("WATCHDOG_PID", str(environment.pid)) == str(environment.pid):
        microseconds = environment.read("WATCHDOG_USEC", decimal, "a number")
        watchdog = microseconds / 1e6 if microseconds else None
    ready_fd = FIRST_SOCKET + len(sockets) if succeeds else None
    return Supervision(environ.get("NOTIFY_SOCKET") or None, watchdog, sockets, ready_fd)
