"""The certificate of each host: loaded from disk, ordered if there is none, renewed, and served.

A `HostManager` manages one host, so concurrent requests for its certificate share one order. A valid certificate is
served even if the CA fails. Without one, handshakes fail and the log contains the reason.
"""

import asyncio
import random
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from ssl import DER_cert_to_PEM_cert
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from derper import certname
from derper.addresses import IPAddress
from derper.config import CertMode, Config
from derper.credentials import pem
from derper.credentials.pem import Certificate, Host
from derper.dataplane import Serves
from derper.errors import ConfigError
from derper.host import roots
from derper.host.trusted import TrustedRoots
from derper.host.worker import Blocking, T, Worker
from derper.server.certificates.acme import renewal, tailscale_names
from derper.server.certificates.acme.directory import Ca, OrderError, external_key
from derper.server.certificates.acme.order import Issued, Orders
from derper.server.certificates.acme.solvers import ChallengeSolver, Dns01Solver, Http01Solver, TlsAlpn01Solver, Tokens
from derper.server.certificates.acme.store import Store
from derper.server.certificates.sources import Clock, Show, Status, is_within
from derper.server.life.reload import Facts

_log: FilteringBoundLogger = structlog.get_logger()

MOST_ON_DEMAND: Final = 64
"""Maximum hosts ordered on demand: strangers choose the names."""
DISK_SECONDS: Final = 60.0
LOOK_AGAIN: Final = timedelta(hours=1)
"""The longest sleep: the clock may be set during it."""
ASK_AGAIN: Final = timedelta(hours=6)  # for the CA's suggestion, if the CA sends no delay
MOST_APART: Final = timedelta(days=1)  # between two requests for its suggestion, even if the CA sends a longer delay
SHORT_LIVED: Final = "shortlived"  # the profile of certificates for addresses


@dataclass(frozen=True, slots=True)
class _Shared:
    """The state that all managers share."""

    orders: Orders
    store: Store
    show: Show
    clock: Clock
    disk: Worker


class Issuer:
    """All certificates of a CA."""

    def __init__(self, config: Config, show: Show, tokens: Tokens | None, clock: Clock) -> None:
        directory = config.tls.directory
        if directory is None:
            raise ConfigError("no certificate directory is set; set one with -certdir")
        self._config = config
        self._tls = config.tls
        store = Store(directory)
        ca = Ca(self._tls.acme, config.roots, config.proxies, store)
        orders = Orders(ca, _solvers(config, show, tokens), Worker("ACME"))
        self._shared = _Shared(orders, store, show, clock, Worker("certificate files"))
        self._managers: dict[Host, HostManager] = {}
        self._full = False

    async def load(self) -> None:
        """Serve the stored certificates, and check that the settings can be used."""
        acme = self._tls.acme
        if acme.binds_an_account:
            external_key(acme)
        if acme.roots is not None and not roots.load(TrustedRoots(acme.roots, ())):
            raise ConfigError(f"the file {acme.roots} of -acme-directory-ca holds no certificate; name another")
        if self._serves_addresses and self._config.http_address is None:
            _log.warning("-acme-ip-certs proves addresses on port 80, and -http-port is off: no CA will issue any")
        host = pem.host_of(self._tls)
        manager = self._managers[host] = self._new_manager(host, on_demand=host == tailscale_names.DEFAULT_NAME)
        await manager.load()
        if manager.never_orders:
            _log.error(manager.never_orders)
        elif manager.certificate is None:
            _log.warning("no certificate yet: TLS handshakes fail until the CA issues one", host=host)

    def start(self) -> None:
        """Start ordering and renewing."""
        for manager in self._managers.values():
            manager.start()

    async def stop(self) -> None:
        """Stop all orders."""
        for manager in self._managers.values():
            await manager.stop()

    async def reload(self) -> Facts:
        """Retry failed orders at once, and ask for the CA's renewal times."""
        for manager in self._managers.values():
            manager.hurry()
        return {"certificates": len(self._managers)}

    def wanted(self, name: str | None, local: IPAddress) -> None:
        """Order a certificate for the name or address that a client requested, if we serve it."""
        host = self._served_as(name, local)
        if host is None:
            return
        manager = self._managers.get(host)
        if manager is None:
            if not self._has_room():
                return
            manager = self._managers[host] = self._new_manager(host, on_demand=True)
            manager.start()
        manager.want()

    def status(self) -> list[Status]:
        """Return the state of each certificate; hosts ordered on demand are listed once they have one."""
        return [manager.status() for manager in self._managers.values() if manager.certificate or not manager.on_demand]

    def _new_manager(self, host: Host, *, on_demand: bool) -> "HostManager":
        reason = tailscale_names.reason_not_to_order(host, self._tls.acme.directory)
        return HostManager(host, self._shared, on_demand=on_demand, never_orders=reason)

    def _served_as(self, name: str | None, local: IPAddress) -> Host | None:
        if name is None:
            return local if self._serves_addresses else None
        plain = certname.plain(name)
        if self._tls.hostname == tailscale_names.DEFAULT_NAME and tailscale_names.is_one(plain):
            return plain
        return None

    @property
    def _serves_addresses(self) -> bool:
        return self._tls.acme.ip_certificates and self._tls.mode is CertMode.LETSENCRYPT

    def _has_room(self) -> bool:
        """Return whether one more host fits; if necessary, remove one that never got a certificate."""
        on_demand = [manager for manager in self._managers.values() if manager.on_demand]
        if len(on_demand) < MOST_ON_DEMAND:
            return True
        idle = next((manager for manager in on_demand if manager.is_idle), None)
        if idle is not None:
            idle.end()
            del self._managers[idle.host]
            return True
        if not self._full:
            self._full = True
            _log.warning("clients request more hosts than certificates are ordered for", most=MOST_ON_DEMAND)
        return False


class HostManager:
    """The manager of one host's certificate."""

    def __init__(self, host: Host, shared: _Shared, *, on_demand: bool, never_orders: str = "") -> None:
        self.host = host
        self.on_demand = on_demand  # without a certificate, order only when a client requests the host
        self.never_orders = never_orders  # the reason why it never orders; empty: it orders
        self.certificate: Certificate | None = None
        self._shared = shared
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._skips_pause = False
        self._is_wanted = not on_demand and not never_orders
        self._not_before: datetime | None = None  # no order before this time, which is at most `_pause` ahead
        self._pause = timedelta()
        self._failures = 0
        self._problem = ""
        self._spread = random.random()  # noqa: S311  spreads load; not a secret
        self._suggested: datetime | None = None
        self._ask_at: datetime | None = None  # when to ask the CA for its suggestion
        self._unsaved: Issued | None = None

    @property
    def is_idle(self) -> bool:
        """True if there is no certificate and no order."""
        return self.certificate is None and not self._is_wanted

    async def load(self) -> None:
        """Serve the stored certificate.

        An expired certificate is served until the next one is issued. If a certificate is not yet valid, this machine's
        clock is slow, as at a boot without a network, and no order could succeed. A host that is ordered on demand
        loads a valid one only, because a present certificate is renewed without a client's request.
        """
        kept = await self._on_disk(partial(self._shared.store.load, self.host))
        if kept is not None and not (self.on_demand and kept.date_problem(self._shared.clock())):
            with suppress(ConfigError):
                self._adopt(kept)

    def start(self) -> None:
        """Start maintaining the certificate."""
        self._task = asyncio.get_running_loop().create_task(self._maintain())

    def end(self) -> None:
        """Cancel all work."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Cancel all work, and return when it has ended."""
        self.end()
        if self._task is not None:
            with suppress(asyncio.CancelledError):
                await self._task

    def want(self) -> None:
        """Record that a client requested the host."""
        if self.certificate is None and not self._is_wanted and not self.never_orders:
            self._is_wanted = True
            self._changed.set()

    def hurry(self) -> None:
        """End the current pause after the current work."""
        self._skips_pause = True
        self._changed.set()

    def status(self) -> Status:
        """Return the certificate's state."""
        begins, ends = (None, None) if self.certificate is None else (self.certificate.begins, self.certificate.ends)
        if self.never_orders:
            return Status(str(self.host), ends, problem=self.never_orders, begins=begins)
        renews = self._next_order(self._shared.clock())
        return Status(str(self.host), ends, renews, self._failures, self._problem, begins)

    async def _maintain(self) -> None:
        if self.on_demand:
            await self.load()
        while True:
            self._changed.clear()
            if self._skips_pause:
                self._skips_pause = False
                self._not_before = self._ask_at = None
            await self._ask()
            await self._save()
            now = self._shared.clock()
            wait = self._next_order(now) - now
            if not self._is_wanted or wait > timedelta():
                seconds = min(wait, LOOK_AGAIN).total_seconds() if self._is_wanted else None
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._changed.wait()
                continue
            await self._renew()

    def _next_order(self, now: datetime) -> datetime:
        due = now
        if self.certificate is not None:
            due = renewal.due(self.certificate.begins, self.certificate.ends, self._spread, self._suggested)
        if self._not_before is None:
            return due
        # If the clock was ahead when the pause began, and was corrected since, the pause begins again.
        self._not_before = min(self._not_before, now + self._pause)
        return max(due, self._not_before)

    def _wait(self, pause: timedelta) -> None:
        """Place no order until `pause` has passed."""
        self._pause = pause
        self._not_before = self._shared.clock() + pause

    async def _renew(self) -> None:
        """Order a certificate, unless another process that shares the directory did so."""
        now = self._shared.clock()
        kept = await self._on_disk(partial(self._shared.store.load, self.host))
        try:
            if kept is not None and self._is_newer(kept, now):
                self._adopt(kept)
                return
            _log.info("ordering a certificate", host=self.host)
            issued = await self._shared.orders.obtain(self.host, None if isinstance(self.host, str) else SHORT_LIVED)
            self._adopt(self._checked(issued))
        except (OrderError, ConfigError) as error:
            self._failed(error)
            return
        self._unsaved = issued
        self._wait(min(renewal.MIN_GAP, self._life / 6))
        await self._save()
        _log.info("certificate issued", host=self.host, ends=self.certificate and self.certificate.ends)

    @property
    def _life(self) -> timedelta:
        return timedelta() if self.certificate is None else self.certificate.life

    def _is_newer(self, kept: Certificate, now: datetime) -> bool:
        if kept.date_problem(now) or (self.certificate is not None and kept.ends <= self.certificate.ends):
            return False
        return renewal.due(kept.begins, kept.ends, self._spread) > now

    def _checked(self, issued: Issued) -> Certificate:
        """Return the certificate after all checks, so that an unusable one cannot replace a usable one."""
        source = "that the CA issued"
        certificate = pem.parse(issued.chain, source, issued.key, "of the order", self.host)
        pem.check_dates(certificate, source, self._shared.clock(), "the CA is at fault")
        return certificate

    def _adopt(self, certificate: Certificate) -> None:
        serves = Serves.name(self.host) if isinstance(self.host, str) else Serves.local_ip(self.host)
        self._shared.show(serves, certificate)
        self.certificate = certificate
        self._is_wanted = not self.never_orders
        self._failures, self._problem, self._not_before = 0, "", None
        self._suggested = self._ask_at = None

    def _failed(self, error: OrderError | ConfigError) -> None:
        self._failures += 1
        self._problem = str(error)
        asked = error.retry_after if isinstance(error, OrderError) else None
        pause = renewal.retry_after(self._failures, asked)
        self._wait(pause)
        if self.certificate is None:
            self._is_wanted = not self.on_demand
        _log.error(
            "certificate order failed", host=self.host, reason=self._problem,
            again_in=f"{pause.total_seconds():.0f} s",
            **({"the_present_one_ends": self.certificate.ends} if self.certificate else {}),
        )  # fmt: skip

    async def _ask(self) -> None:
        """Ask the CA for its suggested renewal time, at the times that it sent."""
        now = self._shared.clock()
        if self.certificate is None or now > self.certificate.ends or self.never_orders:
            return
        if self._ask_at is not None and is_within(self._ask_at - MOST_APART, MOST_APART, now):
            return
        try:
            leaf = DER_cert_to_PEM_cert(self.certificate.chain[0])
            suggested, again = await self._shared.orders.suggestion(leaf.encode())
        except (OrderError, ConfigError, TimeoutError) as error:
            _log.info("cannot fetch renewal information from the CA", host=self.host, reason=str(error))
            self._ask_at = now + ASK_AGAIN
            return
        if suggested != self._suggested:
            _log.debug("the CA suggests a renewal time", host=self.host, at=suggested)
        self._suggested = suggested
        self._ask_at = min(max(again, now + renewal.FIRST_RETRY), now + MOST_APART)

    async def _save(self) -> None:
        """Store a new certificate; if that fails, serve it and retry."""
        if self._unsaved is None:
            return
        issued, store = self._unsaved, self._shared.store
        try:
            await self._on_disk(partial(store.save, self.host, issued.key, issued.chain))
        except ConfigError as error:
            self._problem = str(error)
            _log.error("the new certificate is served but cannot be stored", host=self.host, reason=self._problem)
        else:
            self._unsaved, self._problem = None, ""

    async def _on_disk(self, call: Blocking[T]) -> T:
        try:
            return await self._shared.disk.run(call, DISK_SECONDS)
        except TimeoutError:
            raise ConfigError("reading the certificate directory timed out") from None


def _solvers(config: Config, show: Show, tokens: Tokens | None) -> list[ChallengeSolver]:
    """Return the solvers that can work here, the most likely first."""
    hook = config.tls.acme.dns_hook
    over_http: list[ChallengeSolver] = (
        [Http01Solver(tokens)] if tokens is not None and config.http_address is not None else []
    )
    if hook is not None:
        return [Dns01Solver(hook), *over_http]
    return [TlsAlpn01Solver(show), *over_http]
