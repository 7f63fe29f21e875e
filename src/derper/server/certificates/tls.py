"""The certificates that the TLS listener serves, from start to end.

Certificates come from a source: files (`manual`) or a CA (`acme`). This module appends the meta certificate to each
chain, renews it, passes the result to the data plane, and logs certificates that end soon. A certificate that TLS
cannot use never replaces a usable one.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric import ed25519
from structlog.typing import FilteringBoundLogger

from derper import mapnode
from derper.config import CertMode, Config
from derper.credentials import pem
from derper.credentials.pem import Certificate
from derper.dataplane import Certificate as Served
from derper.dataplane import DataPlane, Serves, Unserved
from derper.errors import ConfigError
from derper.metrics.exposition import Family, Labelled, Metric, Type
from derper.protocol import metacert
from derper.protocol.keys import NodePublic
from derper.server.certificates.challenges import Challenges
from derper.server.certificates.manual import ManualFiles
from derper.server.certificates.sources import Clock, Source, Status, is_within, utc_now
from derper.server.identity import Identity
from derper.server.life.reload import Facts

_log: FilteringBoundLogger = structlog.get_logger()

META_LIFE: Final = timedelta(days=30)  # in both directions from now
META_RENEWAL: Final = timedelta(days=7)
LOOK_SECONDS: Final = 3600.0
WARNING: Final = timedelta(days=14)  # or a sixth of a shorter lifetime
_DAY: Final = timedelta(days=1)

METRICS: Final = (
    _EXPIRATION := Metric(
        "derper_certificate_expiration_timestamp_seconds",
        Type.GAUGE,
        "When the certificate of each host ends, in Unix seconds; with TLS",
        ("name",),
    ),
    _VALID := Metric(
        "derper_certificate_valid",
        Type.GAUGE,
        "Whether the certificate of each host may be used now: 0 if it has expired, is not yet valid or is missing; "
        "with TLS",
        ("name",),
    ),
    _FAILURES := Metric(
        "derper_certificate_renewal_failures",
        Type.GAUGE,
        "What failed since a certificate was last got, by host; with TLS",
        ("name",),
    ),
)


class Certificates:
    """All certificates of a TLS listener."""

    def __init__(
        self,
        plane: DataPlane,
        config: Config,
        identity: Identity,
        challenges: Challenges | None,
        main_port: Callable[[], int],
    ) -> None:
        self._plane = plane
        self._server_key = identity.public
        self._clock: Clock = utc_now
        self._hostname = config.tls.hostname
        self._shown: dict[Serves, Certificate] = {}
        self._meta = b""
        self._meta_made: datetime | None = None
        self._warned: dict[str, datetime] = {}  # time of the last warning, by host
        self._checks: asyncio.Task[None] | None = None
        self._source: Source
        if config.tls.mode is CertMode.MANUAL:
            self._source = ManualFiles(
                config.tls, self.show, self._clock, lambda shown: mapnode.line(config, shown.chain, main_port())
            )
        else:
            # A late import: its libraries are a large part of all imports, and manual files do not need them.
            from derper.server.certificates.acme.issuer import Issuer  # noqa: PLC0415

            self._source = Issuer(config, self.show, challenges, self._clock)

    async def load(self) -> None:
        """Serve the certificates that exist already.

        Raises:
            ConfigError: The server cannot start with them.
        """
        await self._source.load()

    def start(self) -> None:
        """Start obtaining and renewing certificates; the server listens."""
        self._source.start()
        self._checks = asyncio.get_running_loop().create_task(self._check_periodically())

    async def stop(self) -> None:
        """Stop all work on certificates."""
        if self._checks is not None:
            self._checks.cancel()
            with suppress(asyncio.CancelledError):
                await self._checks
        await self._source.stop()

    async def reload(self) -> Facts:
        """Check for new certificates at once."""
        facts = await self._source.reload()
        self.look()
        return facts

    def missed(self, client: Unserved) -> None:
        """Record a client that was rejected because no certificate matches."""
        self._source.wanted(client.name, ip_address(client.local))

    def status(self) -> list[Status]:
        """Return the state of each host's certificate."""
        return self._source.status()

    def problems(self) -> list[str]:
        """Return one line for each host whose certificate has expired or is not yet valid."""
        now = self._clock()
        return [f"{status.host}: {reason}" for status in self.status() if (reason := status.invalid(now))]

    def families(self) -> Iterator[Family]:
        """Return the metrics of certificates, by host."""
        found = self.status()
        ends = {status.host: round(status.ends.timestamp()) for status in found if status.ends is not None}
        now = self._clock()
        valid = {status.host: int(status.ends is not None and not status.invalid(now)) for status in found}
        failures = {status.host: status.failures for status in found}
        yield Family(_EXPIRATION, Labelled.by("name", ends))
        yield Family(_VALID, Labelled.by("name", valid))
        yield Family(_FAILURES, Labelled.by("name", failures))

    def show(self, serves: Serves, certificate: Certificate | None) -> None:
        """Serve a certificate to these clients from the next handshake on; None removes it.

        Raises:
            ConfigError: TLS cannot use it; the previous one is still served.
        """
        shown = {**self._shown}
        if certificate is None:
            shown.pop(serves, None)
        else:
            shown[serves] = certificate
        self._publish(shown)
        self._shown = shown

    def look(self) -> None:
        """Renew the meta certificate before its end; log certificates that clients reject now or soon."""
        now = self._clock()
        if self._shown and (self._meta_made is None or not is_within(self._meta_made, META_RENEWAL, now)):
            self._meta_made = None
            self._publish(self._shown)
        for status in self._source.status():
            if reason := status.invalid(now):
                _log.error(
                    "clients reject the certificate", host=status.host, reason=f"{reason}; {_remedy(status, now)}"
                )
            else:
                self._warn(status, now)

    def _publish(self, shown: dict[Serves, Certificate]) -> None:
        now = self._clock()
        if self._meta_made is None:
            self._meta = meta_certificate(self._server_key, now)
            self._meta_made = now
        try:
            self._plane.set_certificates(
                [
                    Served(serves, (*certificate.chain, self._meta), certificate.key)
                    for serves, certificate in shown.items()
                ]
            )
        except ValueError as error:
            raise ConfigError(f"the certificate for -hostname={self._hostname} cannot be served: {error}") from error

    def _warn(self, status: Status, now: datetime) -> None:
        if status.ends is None or status.left(now) > WARNING or (status.renews is not None and not status.failures):
            return
        warned = self._warned.get(status.host)
        if warned is not None and is_within(warned, _DAY, now):
            return
        self._warned[status.host] = now
        _log.warning(
            "certificate expires soon", host=status.host, ends=status.ends, days_left=round(status.left(now) / _DAY, 1),
            **({"problem": status.problem} if status.problem else {}),
        )  # fmt: skip

    async def _check_periodically(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)


def _remedy(status: Status, now: datetime) -> str:
    """Return the remedy for a certificate outside its dates."""
    if status.left(now) > timedelta():
        return pem.CHECK_CLOCK
    return "renew it and replace the files" if status.renews is None else "see why its renewal fails"


def meta_certificate(server_key: NodePublic, now: datetime) -> bytes:
    """Return a meta certificate (docs/protocol/protocol.md), in DER."""
    return metacert.build(server_key, ed25519.Ed25519PrivateKey.generate(), now - META_LIFE, now + META_LIFE)
