"""The server as a whole: what is made of a `Config`, in which order, and when it ends. Composition, no decisions."""

import asyncio
import resource
import signal
from collections.abc import Callable
from typing import Self

import structlog
from structlog.typing import FilteringBoundLogger

from derper._version import version
from derper.config import CertMode, Config
from derper.dataplane import DataPlane, PlaneSettings
from derper.redaction import conceal
from derper.server import pages, port80
from derper.server.admin import AdminListener
from derper.server.admission.door import Door
from derper.server.bootstrap import BootstrapDns
from derper.server.challenges import Challenges
from derper.server.debug import DebugPages
from derper.server.http import HttpServer
from derper.server.identity import Identity
from derper.server.introduce import Introducer, Web
from derper.server.listeners import Listening
from derper.server.login import Login
from derper.server.mesh import Mesh
from derper.server.metrics import Metrics
from derper.server.rates import ClientRates
from derper.server.reload import Reload, reload_all
from derper.server.reload import action as reload_action
from derper.server.resettle import Settings
from derper.server.tls import Certificates
from derper.server.tunnels import Tunnels

_log: FilteringBoundLogger = structlog.get_logger()

RTT_INTERVAL = 10.0
"""Seconds between two looks at a connection's round trip."""


def run(config: Config, read_again: Callable[[], Config]) -> int:
    """Serve until SIGTERM or SIGINT; give the exit code. `read_again` gives the configuration as it would be now.

    Raises:
        ConfigError: the server cannot start.
    """
    _raise_descriptor_limit()
    return asyncio.run(_serve(Server(config, read_again)))


async def _serve(server: "Server") -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop_signal, stopped.set)
    reloading: set[asyncio.Task[dict[str, str]]] = set()

    def reload() -> None:
        task = loop.create_task(server.reload())
        reloading.add(task)
        task.add_done_callback(reloading.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    async with server:
        await stopped.wait()
    return 0


class Server:
    """All parts of one server. As a context it serves; outside of one, nothing listens.

    Making one reads the keys, which may wait for a secrets server, so it is made before the loop runs.
    """

    def __init__(self, config: Config, read_again: Callable[[], Config], *, rtt_interval: float = RTT_INTERVAL) -> None:
        self._config = config
        conceal(config.tls.acme.eab_key, "-acme-eab-key")
        self.identity = Identity.load(config)
        self.plane = DataPlane(
            PlaneSettings(
                shards=config.relay.shards,
                server_key=self.identity.public,
                queue_depth=config.relay.send_queue_depth,
                max_queued_bytes=config.relay.max_queued_bytes,
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
        self._certificates = Certificates(self.plane, config, self.identity) if config.serves_tls else None
        self._rates = ClientRates(self.plane, config.relay.rate_file)
        self._mesh = Mesh(self.plane, self.identity, config)
        self._settings = Settings(config, read_again, self.identity, self._mesh)
        self._door = Door.of(config)
        login = Login(self.identity, self._door, config.admission.refused_app_names)
        self.tunnels = Tunnels(self.plane, config.relay.tcp, enabled=config.pages.ace)
        self._introducer = Introducer(self.plane, Web(self.http, self.http_beside, self.tunnels), login, self._mesh)
        self.metrics = Metrics(self.plane, self._introducer, self.bootstrap, config)
        self._debug = DebugPages(config, self.metrics, self._door, self.identity)
        self.admin: AdminListener | None = None
        if config.admin is not None:
            actions = [reload_action(self.reload)]
            self.admin = AdminListener(config, config.admin, self._debug.routes(), actions)

    async def __aenter__(self) -> Self:
        """Serve.

        Raises:
            ConfigError: it cannot.
        """
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_failure: object) -> None:
        """End every connection and let go of everything."""
        _log.info("stopping", connections=self.plane.census().connections)
        await self._stop()

    async def reload(self) -> dict[str, str]:
        """Read again what may change while the server runs; what cannot be read stays as it was, and is told why."""
        items = [Reload("the settings", self._settings.reload)]
        if self._config.relay.rate_file is not None:
            items.append(Reload("the rate limits", self._rates.reload))
        return await reload_all(items)

    async def _start(self) -> None:
        config = self._config
        if self._certificates is not None:
            self._certificates.start()
        debug = self._debug.public_routes()
        await self.http.start(pages.application(config, [*self.bootstrap.routes(), *debug]))
        if self.http_beside is not None:
            await self.http_beside.start(port80.application(config, debug, self.challenges))
        self.plane.start(self._introducer.on_event)
        self._rates.load()
        if self.admin is not None:
            await self.admin.start()
        self.listening.start()
        _log.info(
            "serving", version=version(), address=self.listening.address, tls=config.serves_tls,
            public_key=self.identity.public, mesh_key=self.identity.mesh_key is not None, shards=config.relay.shards,
        )  # fmt: skip
        self._mesh.start()
        self.bootstrap.start()

    async def _stop(self) -> None:
        if self.admin is not None:
            await self.admin.stop()
        await self.bootstrap.stop()
        await self._mesh.stop()
        self.plane.stop()
        self._introducer.stop()
        await self._door.close()
        await self.http.stop()
        if self.http_beside is not None:
            await self.http_beside.stop()


def _raise_descriptor_limit() -> None:
    """Use all the descriptors that this process may have: each connection is one, and the soft limit is for others."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
