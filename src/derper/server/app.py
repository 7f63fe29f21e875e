"""The whole server: creates all parts from a `Config`, in order, and closes them. Composition only, no decisions."""

import asyncio
import resource
from collections.abc import Callable, Mapping
from typing import Self

import structlog
from structlog.typing import FilteringBoundLogger

from derper._version import version
from derper.config import CertMode, Config
from derper.dataplane import DataPlane, PlaneSettings
from derper.host.serialized import Serialized
from derper.redaction import conceal
from derper.server.admission.policy import AdmissionPolicy
from derper.server.admission.review import LIST, Review
from derper.server.certificates.challenges import Challenges
from derper.server.certificates.tls import Certificates
from derper.server.connections import ConnectionHandler, Web
from derper.server.debug.actions import Actions
from derper.server.debug.admin import AdminListener
from derper.server.debug.metrics import Metrics
from derper.server.debug.overview import Overview
from derper.server.debug.pages import DebugPages
from derper.server.http import pages, port80
from derper.server.http.bootstrap import BootstrapDns
from derper.server.http.connection import HttpServer
from derper.server.http.forwarded import Forwarding
from derper.server.http.tunnels import Tunnels
from derper.server.identity import Identity
from derper.server.life import orders, successor
from derper.server.life.drain import drain
from derper.server.life.live_settings import Settings
from derper.server.life.reload import Reload, reload_all
from derper.server.life.reload import action as reload_action
from derper.server.life.supervisor import Supervisor
from derper.server.listeners import ADMIN, Listening
from derper.server.login import Login
from derper.server.mesh import Mesh
from derper.server.rates import ClientRates

_log: FilteringBoundLogger = structlog.get_logger()

RTT_INTERVAL = 10.0
"""Seconds between two round-trip measurements of a connection."""


def run(config: Config, read_again: Callable[[], Config]) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. `read_again` returns the current configuration.

    Raises:
        ConfigError: The server cannot start.
    """
    _raise_descriptor_limit()
    return asyncio.run(orders.serve(Server(config, read_again)))


class Server:
    """All parts of one server. It serves while it is entered as a context manager; otherwise nothing listens.

    The constructor reads the keys, which may wait for a secrets server, so call it before the loop runs.
    """

    def __init__(self, config: Config, read_again: Callable[[], Config], *, rtt_interval: float = RTT_INTERVAL) -> None:
        self._config = config
        self._supervisor = Supervisor(config.supervision)
        self._successor: int | None = None  # its process id, once it is ready
        # set before the first await, so there is one successor at most
        self._handing_over: asyncio.Task[int | None] | None = None
        self._is_draining = False
        self._reload_serialized = Serialized(self._reload)
        self._watch: asyncio.Task[None] | None = None
        conceal(config.tls.acme.eab_key, "-acme-eab-key")
        self.identity = Identity.load(config)
        self.plane = DataPlane(
            PlaneSettings(
                shards=config.relay.shards,
                server_key=self.identity.public,
                queue_depth=config.relay.send_queue_depth,
                max_queued_bytes=config.relay.max_queued_bytes,
                max_routes=config.relay.max_routes,
                memory=config.relay.memory,
                write_timeout=config.relay.tcp.write_timeout,
                verbose_drops=config.observation.verbose_drops,
                rtt_interval=rtt_interval if config.observation.rtt_stats else None,
                count_senders=config.observation.count_senders,
            )
        )
        self.http = HttpServer(relays=config.relay.enabled)
        self.http_beside = HttpServer(relays=False) if config.http_address is not None else None
        self.bootstrap = BootstrapDns(config.pages)
        self.challenges = Challenges(config.tls) if config.tls.mode is not CertMode.MANUAL else None
        self.listening = Listening(self.plane, config)
        self.certificates = (
            Certificates(self.plane, config, self.identity, self.challenges, lambda: self.listening.port)
            if config.serves_tls
            else None
        )
        self._rates = ClientRates(self.plane, self.identity, config.relay)
        self._mesh = Mesh(self.plane, self.identity, config)
        self._settings = Settings(config, read_again, self.identity, self._mesh)
        self._policy = AdmissionPolicy(config)
        self._review = Review(self.plane, self._policy, config.admission.interval)
        login = Login(self.identity, self._policy, self._rates, config.admission.refused_app_names)
        self.tunnels = Tunnels(self.plane, config.relay.tcp, enabled=config.pages.ace)
        web = Web(self.http, self.http_beside, self.tunnels, Forwarding(config.listeners.trusted_proxies))
        self._connections = ConnectionHandler(self.plane, web, login, self._mesh, self.certificates)
        self.metrics = Metrics(self.plane, self._connections, self.bootstrap, self._mesh, self.certificates, config)
        overview = Overview(config, self.identity, self.plane, self._mesh, self.certificates)
        self._debug = DebugPages(config, self.metrics, self._policy, self.plane, overview)
        self.admin: AdminListener | None = None
        if config.admin is not None:
            actions = [reload_action(self.reload), *Actions(self.plane).routes()]
            self.admin = AdminListener(config, config.admin, self._debug.routes(), actions)

    async def __aenter__(self) -> Self:
        """Start serving.

        Raises:
            ConfigError: The server cannot start.
        """
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_failure: object) -> None:
        """Close every connection and all other parts."""
        await self._stop()

    async def drain(self) -> None:
        """Disconnect all clients, at a rate that other servers can accept."""
        self._is_draining = True
        await self._stop_handing_over()
        self._supervisor.tell("STOPPING=1", "STATUS=draining")
        self.listening.stop_accepting()
        if self.admin is not None and self._successor is not None:
            await self.admin.hand_over()
        has_successor = self._successor is not None
        await drain(
            self.plane,
            taken_over=has_successor or await self._mesh.reaches_another(),
            can_take=lambda: has_successor or self._mesh.is_linked,
            within=self._config.drain_timeout,
        )

    async def hand_over(self) -> bool:
        """Start a successor on the same sockets, or wait for one that is starting; return whether it is ready."""
        if self._config.key_file is None:
            _log.error("cannot hand over with -dev: the successor would have another key")
            return False
        if self._is_draining and self._successor is None:
            _log.error("no successor is started: this server is stopping")
            return False
        if self._handing_over is None:
            self._handing_over = asyncio.get_running_loop().create_task(successor.start(self.listening.sockets))
            self._handing_over.add_done_callback(self._handed_over)
        await asyncio.wait([self._handing_over])
        return self._successor is not None

    def _handed_over(self, starting: asyncio.Task[int | None]) -> None:
        """Record the successor; if it failed, another may be started."""
        if not starting.cancelled() and (error := starting.exception()) is not None:
            _log.error("the successor cannot be started; this process goes on", reason=str(error))
        elif not starting.cancelled():
            self._successor = starting.result()
        if self._successor is None:
            self._handing_over = None
        else:
            self._supervisor.tell(f"MAINPID={self._successor}")

    async def _stop_handing_over(self) -> None:
        """Stop a successor that is still starting: a request to stop applies to it, too."""
        if self._handing_over is not None and not self._handing_over.done():
            self._handing_over.cancel()
            await asyncio.wait([self._handing_over])

    async def reload(self) -> Mapping[str, str]:
        """Reload what can change while the server runs; return the reason of each failed item, which stays as it was.

        Reloads are serialized: two at once could finish in the wrong order, so the older files would win.
        """
        return await self._reload_serialized()

    async def _reload(self) -> Mapping[str, str]:
        with self._supervisor.reloading():
            return await self._reload_items()

    async def _reload_items(self) -> dict[str, str]:
        items = [Reload("the settings", self._settings.reload)]
        if self._config.relay.rate_file is not None:
            items.append(Reload("the rate limits", self._rates.reload))
        if self._policy.allow_list is not None:
            items.append(Reload(LIST, self._review.reload))
        if self.certificates is not None:
            items.append(Reload("the certificates", self.certificates.reload))
        return await reload_all(items)

    async def _start(self) -> None:
        config = self._config
        if self.certificates is not None:
            await self.certificates.load()
        debug = self._debug.public_routes()
        await self.http.start(pages.application(config, [*self.bootstrap.routes(), *debug]))
        if self.http_beside is not None:
            await self.http_beside.start(port80.application(config, debug, self.challenges))
        self.plane.start(self._connections.on_event)
        _log_limits(config, self._rates.load())
        self.listening.start()
        if self.admin is not None:
            await self.admin.start(self.listening.sockets.get(ADMIN))
        _log.info(
            "serving", version=version(), address=self.listening.address, tls=config.serves_tls,
            public_key=self.identity.public, mesh_key=self.identity.mesh_key is not None, shards=config.relay.shards,
        )  # fmt: skip
        if self.certificates is not None:
            self.certificates.start()
        self._mesh.start()
        self.bootstrap.start()
        self._review.start()
        self._supervisor.ready()
        self._watch = asyncio.get_running_loop().create_task(self._supervisor.watch(self.plane))

    async def _stop(self) -> None:
        await self._stop_handing_over()
        if self.certificates is not None:
            await self.certificates.stop()
        if self._watch is not None:
            self._watch.cancel()
        if self.admin is not None:
            await self.admin.stop()
        await self._review.stop()
        await self.bootstrap.stop()
        await self._mesh.stop()
        self.plane.stop()
        self.listening.close()
        self._connections.stop()
        await self._policy.close()
        await self.http.stop()
        if self.http_beside is not None:
            await self.http_beside.stop()


def _log_limits(config: Config, rates: Mapping[str, object]) -> None:
    """Log the limits in force, so that an operator sees a wrong limit at start; omit disabled limits."""
    accept = config.relay.accept
    facts = {
        **rates,
        "new_connections_per_second": accept.per_second if config.serves_tls and accept.is_limit else None,
        "connections_per_address": config.listeners.per_ip,
        "max_queued_bytes": config.relay.max_queued_bytes,
        "packets_queued_per_client": config.relay.send_queue_depth,
    }
    _log.info("limits", **{name: value for name, value in facts.items() if value})


def _raise_descriptor_limit() -> None:
    """Raise the soft limit of descriptors to the hard limit: each connection needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
