"""The server as a whole: what is made of a `Config`, in which order, and when it ends."""

import asyncio
import resource
import signal
import socket
from datetime import UTC, datetime

import structlog
from structlog.typing import FilteringBoundLogger

from derper import log
from derper._version import version
from derper.config import Config, ListenAddress
from derper.dataplane import Certificate, DataPlane, PlaneSettings, Rate, Serves
from derper.errors import ConfigError
from derper.server import certificates, pages, rates
from derper.server.debug import DebugPages
from derper.server.http import HttpServer
from derper.server.identity import Identity
from derper.server.introduce import Introducer
from derper.server.listeners import bind_stun, listen
from derper.server.login import Login
from derper.server.mesh import Mesh
from derper.server.metrics import Metrics

_log: FilteringBoundLogger = structlog.get_logger()

RTT_INTERVAL = 10.0
"""Seconds between two looks at a connection's round trip."""


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; give the exit code.

    Raises:
        ConfigError: the server cannot start.
    """
    _raise_descriptor_limit()
    return asyncio.run(_serve(config))


async def _serve(config: Config) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(stop_signal, stopped.set)
    identity = Identity.load(config)
    plane = DataPlane(
        PlaneSettings(
            shards=config.relay.shards,
            server_key=identity.public,
            queue_depth=config.relay.send_queue_depth,
            write_timeout=config.relay.tcp.write_timeout,
            verbose_drops=config.observation.verbose_drops,
            rtt_interval=RTT_INTERVAL if config.observation.rtt_stats else None,
        )
    )
    http = HttpServer(config)
    login = Login(identity, config.admission.refused_app_names)
    mesh = Mesh(plane, identity, config)
    introducer = Introducer(plane, http, login, mesh)
    try:
        if config.serves_tls:
            certify(plane, config, identity)
        metrics = Metrics(plane, introducer, config)
        debug = DebugPages(config, metrics, has_mesh_key=identity.mesh_key is not None)
        await http.start(pages.application(config, debug.routes()))
        plane.start(introducer.on_event)
        if config.relay.rate_file is not None:
            plane.limit_clients(rates.load(config.relay.rate_file))
        loop.add_signal_handler(signal.SIGHUP, _reload, plane, config)
        with listen(config.listeners.main, config.relay.tcp) as main:
            plane.listen(main, tls=config.serves_tls, limit=_accept_limit(config))
            address = _address_of(main)
        if config.stun_address is not None:
            _answer_stun(plane, config.stun_address, any_client=config.listeners.stun_any)
        _log.info(
            "serving", version=version(), address=address, tls=config.serves_tls, public_key=identity.public,
            mesh_key=identity.mesh_key is not None, shards=config.relay.shards,
        )  # fmt: skip
        mesh.start()
        await stopped.wait()
        _log.info("stopping", connections=plane.census().connections)
        await mesh.stop()
    finally:
        plane.stop()
        introducer.stop()
        await http.stop()
    return 0


def _reload(plane: DataPlane, config: Config) -> None:
    """Read again what may change while the server runs; what cannot be read stays as it was."""
    if config.relay.rate_file is None:
        _log.info("SIGHUP: nothing to reload")
        return
    try:
        limit = rates.load(config.relay.rate_file)
    except ConfigError as error:
        _log.error("SIGHUP: the old rate limits stay", reason=str(error))
        return
    plane.limit_clients(limit)
    _log.info("SIGHUP: rate limits reloaded", bytes_per_second=limit and limit.per_second, burst=limit and limit.burst)


def _accept_limit(config: Config) -> Rate | None:
    accept = config.relay.accept
    return Rate(accept.per_second, accept.burst) if config.serves_tls and accept.is_limit else None


def certify(plane: DataPlane, config: Config, identity: Identity) -> None:
    """Give the data plane the certificate that was set up by hand, and tell its pin."""
    certificate = certificates.load_manual(config.tls, identity.public, datetime.now(UTC))
    try:
        serves = Serves.any_client() if certificate.sni is None else Serves.name(certificate.sni)
        plane.set_certificates([Certificate(serves, certificate.chain, certificate.key)])
    except ValueError as error:
        raise ConfigError(f"the certificate for -hostname={config.tls.hostname} cannot be served: {error}") from error
    node = certificates.derp_map_node(config.tls, certificate)
    if node is not None:
        _log.info("using a self-signed certificate; clients trust it by this node of their DERP map")
        log.verbatim(node)


def _answer_stun(plane: DataPlane, address: ListenAddress, *, any_client: bool) -> None:
    with bind_stun(address) as sock:
        plane.serve_stun(sock, any_client=any_client)
        _log.info("answering STUN", address=_address_of(sock), any_client=any_client)


def _address_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _raise_descriptor_limit() -> None:
    """Use all the descriptors that this process may have: each connection is one, and the soft limit is for others."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
