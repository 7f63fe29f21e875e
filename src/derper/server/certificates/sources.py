"""Where certificates come from, as `tls` sees it: what a source does, and how it shows one."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias

from derper import certname
from derper.config import IPAddress
from derper.dataplane import Serves
from derper.server.certificates.pem import Certificate
from derper.server.life.reload import Facts

Show: TypeAlias = Callable[[Serves, Certificate | None], None]
"""Shows it from the next handshake on; None: nothing any more. Raises `ConfigError` if TLS cannot use it."""

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


def is_within(since: datetime, span: timedelta, now: datetime) -> bool:
    """Return whether less than `span` has passed since a moment; False if the moment lies ahead."""
    return timedelta() <= now - since < span


@dataclass(frozen=True, slots=True)
class Status:
    """How a host's certificate is."""

    host: str
    ends: datetime | None  # None: there is none yet
    renews: datetime | None = None  # None: the operator does it
    failures: int = 0  # to renew it, since the last success
    problem: str = ""  # the last of them
    begins: datetime | None = None  # None: there is none yet

    def left(self, now: datetime) -> timedelta:
        """Return the remaining lifetime."""
        return timedelta() if self.ends is None else self.ends - now

    def invalid(self, now: datetime) -> str:
        """Return why clients reject the certificate now; empty if its dates are right, or if there is none."""
        if self.begins is None or self.ends is None:
            return ""
        return certname.date_problem(self.begins, self.ends, now)


class Source(Protocol):
    """One way to come by certificates. On the loop."""

    async def load(self) -> None:
        """Show what there is already.

        Raises:
            ConfigError: the server cannot start with that.
        """

    def start(self) -> None:
        """Look after them from now on; the server listens."""

    async def stop(self) -> None:
        """Look after them no more."""

    async def reload(self) -> Facts:
        """Look again, because the operator asks for it; what cannot be shown is a `ConfigError`, and the old stays."""

    def wanted(self, name: str | None, local: IPAddress) -> None:
        """Note a client that no certificate matches: the name that it asked for and the address that it reached."""

    def status(self) -> list[Status]:
        """Return the state of each host's certificate."""
