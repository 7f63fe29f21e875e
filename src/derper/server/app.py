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
from derper.config import Config
from derper.dataplane import DataPlane, PlaneSettings
from derper.errors import ConfigError
from derper.server import certificates
from derper.server.http import HttpServer
from derper.server.identity import Identity
from derper.server.introduce import Introducer
from derper.server.listeners import listen
from derper.server.login import Login
from derper.server.mesh import Mesh

_log: FilteringBoundLogger = structlog.get_logger()


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; give the exit code.

    Raises:
        ConfigError: the server cannot start.
    """
    _raise_descriptor_limit()
    return asyncio.run(_serve(config))


async def _serve(config: Config) -> int:
    stopped = asyncio.Event()
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(stop_signal, stopped.set)
    identity = Identity.load(config)
    plane = DataPlane(
        PlaneSettings(
            shards=config.relay.shards,
            server_key=identity.public,
            queue_depth=config.relay.send_queue_depth,
            write_timeout=config.relay.tcp.write_timeout,
        )
    )
    http = HttpServer(config)
    await http.start()
    try:
        if config.serves_tls:
            _certify(plane, config, identity)
        login = Login(identity, config.admission.refused_app_names)
        mesh = Mesh(plane, identity, config)
        plane.start(Introducer(plane, http, login, mesh).on_event)
        with listen(config.listeners.main, config.relay.tcp) as main:
            plane.listen(main, tls=config.serves_tls)
            address = _address_of(main)
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
        await http.stop()
    return 0


def _certify(plane: DataPlane, config: Config, identity: Identity) -> None:
    certificate = certificates.load_manual(config.tls, identity.public, datetime.now(UTC))
    try:
        plane.set_certificates([(certificate.sni, list(certificate.chain), certificate.key)])
    except ValueError as error:
        raise ConfigError(f"the certificate for -hostname={config.tls.hostname} cannot be served: {error}") from error
    node = certificates.derp_map_node(config.tls, certificate)
    if node is not None:
        _log.info("using a self-signed certificate; clients trust it by this node of their DERP map")
        log.verbatim(node)


def _address_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _raise_descriptor_limit() -> None:
    """Use all the descriptors that this process may have: each connection is one, and the soft limit is for others."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
