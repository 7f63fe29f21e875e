"""Which certificates the data plane serves, from start to end. Where they come from is `certificates`' affair."""

from datetime import UTC, datetime

import structlog
from structlog.typing import FilteringBoundLogger

from derper import log
from derper.config import Config
from derper.dataplane import Certificate, DataPlane, Serves
from derper.errors import ConfigError
from derper.server import certificates
from derper.server.identity import Identity

_log: FilteringBoundLogger = structlog.get_logger()


class Certificates:
    """What a TLS listener shows its clients."""

    def __init__(self, plane: DataPlane, config: Config, identity: Identity) -> None:
        self._plane = plane
        self._tls = config.tls
        self._server_key = identity.public

    def start(self) -> None:
        """Give the data plane the certificate that was set up by hand, and tell its pin.

        Raises:
            ConfigError: it cannot be served.
        """
        certificate = certificates.load_manual(self._tls, self._server_key, datetime.now(UTC))
        try:
            serves = Serves.any_client() if certificate.sni is None else Serves.name(certificate.sni)
            self._plane.set_certificates([Certificate(serves, certificate.chain, certificate.key)])
        except ValueError as error:
            raise ConfigError(
                f"the certificate for -hostname={self._tls.hostname} cannot be served: {error}"
            ) from error
        node = certificates.derp_map_node(self._tls, certificate)
        if node is not None:
            _log.info("using a self-signed certificate; clients trust it by this node of their DERP map")
            log.verbatim(node)
