"""The interface between `tls` and a source of certificates."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias

from derper import certname
from derper.addresses import IPAddress
from derper.credentials.pem import Certificate
from derper.dataplane import Serves
from derper.server.life.reload import Facts

Show: TypeAlias = Callable[[Serves, Certificate | None], None]
"""Serves a certificate from the next handshake on; None removes it. Raises `ConfigError` if TLS cannot use it."""

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


def is_within(since: datetime, span: timedelta, now: datetime) -> bool:
    """Return whether less than `span` has passed since a moment; False if the moment is in the future."""
    return timedelta() <= now - since < span


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a host's certificate."""

    host: str
    ends: datetime | None  # None: no certificate yet
    renews: datetime | None = None  # None: the operator renews it
    failures: int = 0  # renewals that failed since the last success
    problem: str = ""  # the last failure
    begins: datetime | None = None  # None: no certificate yet

    def left(self, now: datetime) -> timedelta:
        """Return the remaining lifetime."""
        return timedelta() if self.ends is None else self.ends - now

    def invalid(self, now: datetime) -> str:
        """Return the reason why clients reject the certificate now.

        Empty if its dates are right, or if there is no certificate.
        """
        if self.begins is None or self.ends is None:
            return ""
        return certname.date_problem(self.begins, self.ends, now)


class Source(Protocol):
    """A source of certificates; used on the loop."""

    async def load(self) -> None:
        """Serve the certificates that exist already.

        Raises:
            ConfigError: The server cannot start with them.
        """

    def start(self) -> None:
        """Start maintaining the certificates; the server listens."""

    async def stop(self) -> None:
        """Stop maintaining the certificates."""

    async def reload(self) -> Facts:
        """Check for new certificates at once; an unusable one raises `ConfigError`, and the old one stays."""

    def wanted(self, name: str | None, local: IPAddress) -> None:
        """Record a client without a matching certificate: its server name and the address that it reached."""

    def status(self) -> list[Status]:
        """Return the state of each host's certificate."""
