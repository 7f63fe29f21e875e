"""Certificates from files; if the host is an IP address and has no files, a self-signed one is created.

The files are checked every few seconds, so new ones are in force without a restart; open connections are not affected.
An unusable pair never replaces a usable one. An expired or not yet valid certificate never replaces a valid one. At the
start any dates are accepted: the clock may be wrong, and some clients ignore dates.

Clients trust a self-signed certificate by its pin, which changes with the certificate. So the next one is created, and
its pin logged, long before it takes over.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from structlog.typing import FilteringBoundLogger

from derper import log
from derper.addresses import IPAddress
from derper.config import Tls
from derper.credentials import pem
from derper.credentials.pairs import Pair, pair_of
from derper.credentials.pem import Certificate
from derper.dataplane import Serves
from derper.errors import ConfigError
from derper.host.serialized import Serialized
from derper.host.worker import Blocking, T, Worker
from derper.server.certificates.sources import Clock, Show, Status, is_within
from derper.server.life.reload import Facts

_log: FilteringBoundLogger = structlog.get_logger()

SELF_SIGNED_LIFE: Final = timedelta(days=365)
CLOCK_SKEW: Final = timedelta(days=1)  # a new certificate must be valid for clients with a slow clock
NEXT_IS_LOGGED: Final = timedelta(days=60)  # before the end
NEXT_TAKES_OVER: Final = timedelta(days=7)
CLOCK_SETTLES_SECONDS: Final = 3_600.0
"""Delay between the moment when the next certificate becomes due and its use: the clock may be wrong for a while."""
LOOK_SECONDS: Final = 3.0
DISK_SECONDS: Final = 60.0
_DAY: Final = timedelta(days=1)

_State: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class ManualFiles:
    """The certificate of one host, in its files.

    `map_node` returns the node for the DERP map that the log prints, in one line; empty if clients need none.
    """

    def __init__(self, tls: Tls, show: Show, clock: Clock, map_node: Callable[[Certificate], str]) -> None:
        self._tls = tls
        self._host = pem.host_of(tls)
        self._serves = Serves.any_client() if tls.ip is not None else Serves.name(str(self._host))
        self._show = show
        self._clock = clock
        self._map_node = map_node
        self._worker = Worker("certificate files")
        self._certificate: Certificate | None = None
        self._problem = ""
        self._seen: _State | None = None  # the files' state when they were last read
        self._mismatched: _State | None = None  # the files' state when they could not be used
        self._rejected: Certificate | None = None  # the files' certificate, if it was rejected for its dates only
        self._logged_at: datetime | None = None  # when the next pin was logged
        self._due_since: float | None = None  # monotonic time at which the next certificate became due
        self._checks: asyncio.Task[None] | None = None
        # Two concurrent reloads could finish in the wrong order, so the older certificate would win.
        self._reload_serialized = Serialized(self._reload)

    async def load(self) -> None:
        """Serve the certificate, created if necessary."""
        await self._run(partial(prepare, self._tls, self._clock()))
        await self.reload()

    def start(self) -> None:
        """Log the node for the DERP map, now that the port is known, and start checking the files every few seconds."""
        self._log_node()
        self._checks = asyncio.get_running_loop().create_task(self._check_periodically())

    async def stop(self) -> None:
        """Stop checking the files."""
        if self._checks is not None:
            self._checks.cancel()
            with suppress(asyncio.CancelledError):
                await self._checks

    async def reload(self) -> Facts:
        """Read the files now."""
        return await self._reload_serialized()

    async def _reload(self) -> Facts:
        state, certificate = await self._run(self._read)
        self._rejected = None
        if not self._may_replace(certificate):
            self._rejected = certificate
            pem.check_dates(certificate, self._pair.certificate, self._clock())
        self._show(self._serves, certificate)
        self._certificate, self._seen, self._problem = certificate, state, ""
        return {"host": self._tls.hostname, "ends": certificate.ends, "pin": certificate.pin}

    def _log_node(self) -> None:
        if self._certificate is None or not (node := self._map_node(self._certificate)):
            return
        if self._certificate.self_signed:
            _log.info("using a self-signed certificate; clients trust it by this node of their DERP map")
        else:
            _log.info("using a certificate from files; this is the node for the DERP map", pin=self._certificate.pin)
        log.verbatim(node)

    def _may_replace(self, certificate: Certificate) -> bool:
        """Return whether the dates of a certificate are right, or as wrong as those of the present one."""
        now = self._clock()
        present = self._certificate
        return not certificate.date_problem(now) or present is None or bool(present.date_problem(now))

    def wanted(self, _name: str | None, _local: IPAddress) -> None:
        """No-op: certificates from files cannot be issued on demand."""

    def status(self) -> list[Status]:
        """Return the certificate's state."""
        begins, ends = (None, None) if self._certificate is None else (self._certificate.begins, self._certificate.ends)
        failures = int(bool(self._problem))
        return [Status(self._tls.hostname, ends, failures=failures, problem=self._problem, begins=begins)]

    async def look(self) -> None:
        """Check whether the files have changed, and whether the next certificate is due."""
        state = await self._run(partial(_state_of, self._pair))
        if state != self._seen or (self._rejected is not None and self._may_replace(self._rejected)):
            await self._read_changed(state)
        if self._certificate is not None and self._certificate.self_signed and self._tls.ip is not None:
            await self._maintain_next(self._tls.ip, self._certificate)

    @property
    def _pair(self) -> Pair:
        return pair_of(self._tls)

    async def _read_changed(self, state: _State) -> None:
        try:
            facts = await self.reload()
        except ConfigError as error:
            # Two files cannot be replaced at once, so only a lasting mismatch is logged.
            if state == self._mismatched:
                self._seen, self._problem = state, str(error)
                _log.error(
                    "cannot use the changed certificate files; the previous certificate is still served", reason=error
                )
            self._mismatched = state
        else:
            _log.info("certificate files changed; serving the new certificate", **facts)
            self._log_node()

    async def _maintain_next(self, ip: IPAddress, present: Certificate) -> None:
        now = self._clock()
        left = present.ends - now
        if left > NEXT_TAKES_OVER:
            self._due_since = None
        elif self._due_since is None:
            self._due_since = time.monotonic()
        if left > NEXT_IS_LOGGED or (self._logged_at is not None and is_within(self._logged_at, _DAY, now)):
            return
        try:
            following = await self._run(partial(_next, self._pair, ip, now))
            if self._due_since is not None and time.monotonic() - self._due_since >= CLOCK_SETTLES_SECONDS:
                await self._run(self._pair.take_next)
                facts = await self.reload()
                _log.warning("serving the next self-signed certificate", **facts)
                return
        except ConfigError as error:
            _log.error("cannot create the next self-signed certificate", days_left=left.days, reason=str(error))
            self._logged_at = now
            return
        self._logged_at = now
        settled = now + timedelta(seconds=CLOCK_SETTLES_SECONDS)
        _log.warning(
            "the self-signed certificate expires soon; this is the next one's node for the DERP map",
            days_left=left.days, takes_over=max(present.ends - NEXT_TAKES_OVER, settled),
            or_when_renamed_to=self._pair.certificate,
            **{"from": self._pair.next.certificate},
        )  # fmt: skip
        log.verbatim(self._map_node(following))

    def _read(self) -> tuple[_State, Certificate]:
        state = _state_of(self._pair)
        return state, load(self._tls)

    async def _run(self, call: Blocking[T]) -> T:
        try:
            return await self._worker.run(call, DISK_SECONDS)
        except TimeoutError:
            raise ConfigError(
                f"the certificate {self._pair.certificate} cannot be read: its disk is too slow"
            ) from None

    async def _check_periodically(self) -> None:
        while True:
            with suppress(ConfigError):  # the disk is slow; the next check may succeed
                await self.look()
            await asyncio.sleep(LOOK_SECONDS)


def load(tls: Tls) -> Certificate:
    """Return the certificate in `<certdir>/<hostname>.crt` and `.key`, with any dates.

    Raises:
        ConfigError: The files cannot be used for this host name.
    """
    pair = pair_of(tls)
    return pem.load(pair.certificate, pair.key, pem.host_of(tls))


def prepare(tls: Tls, now: datetime) -> None:
    """Create the missing files of a host that is an IP address.

    An expired certificate is kept: if the clock is wrong, a new one would lose the pin that clients know.

    Raises:
        ConfigError: The files cannot be written.
    """
    pair = pair_of(tls)
    if tls.ip is None:
        return
    pair.mend(tls.ip)
    if not pair.exists():
        pair.write(*make_self_signed(tls.ip, now))


def make_self_signed(ip: IPAddress, now: datetime) -> tuple[bytes, bytes]:
    """Return a self-signed certificate and its key, both in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(ip))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + SELF_SIGNED_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _next(pair: Pair, ip: IPAddress, now: datetime) -> Certificate:
    """Return the next certificate; create one if no stored one fits."""
    try:
        following = pem.load(pair.next.certificate, pair.next.key, ip)
        pem.check_dates(following, pair.next.certificate, now)
        pem.check_dates(following, pair.next.certificate, now + NEXT_IS_LOGGED)
    except ConfigError:
        pair.next.write(*make_self_signed(ip, now))
        return pem.load(pair.next.certificate, pair.next.key, ip)
    return following


def _state_of(pair: Pair) -> _State:
    """Return a value that changes when the file is written or replaced."""
    return tuple(_stat(path) for path in (pair.certificate, pair.key))


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
