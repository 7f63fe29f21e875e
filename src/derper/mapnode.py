"""This server's node of a DERP map: what the log prints at the start, and what `derper map` writes.

A node names only what differs from a map's defaults.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from cryptography import x509

from derper import certname
from derper.config import HTTPS_PORT, Config, Tls
from derper.protocol.derpmap import STUN_PORT, Node

REGION_ID: Final = 900  # 900 to 999 are for operators' own regions
_CAPTIVE_PORT: Final = 80


def pin_for(tls: Tls, chain: Sequence[bytes]) -> str:
    """Return the `CertName` that pins a certificate, given as a chain in DER; empty if clients trust it by a CA.

    An IP address's certificate is pinned, as Go's derper pins it, unless intermediates follow: a client with a pin
    rejects these.
    """
    leaf = x509.load_der_x509_certificate(chain[0])
    if leaf.issuer != leaf.subject and (tls.ip is None or len(chain) > 1):
        return ""
    return certname.pin_of(chain[0])


def node_of(config: Config, cert_name: str, *, port: int, region_id: int = REGION_ID, name: str = "") -> Node:
    """Return the node; `port` is the main listener's, and an empty `name` becomes the region's number and an a."""
    node = Node(
        name=name or f"{region_id}a",
        region_id=region_id,
        host_name=config.tls.hostname,
        cert_name=cert_name,
        derp_port=port if config.serves_tls and port != HTTPS_PORT else 0,
        can_port_80=config.http_address is not None and config.listeners.http_port == _CAPTIVE_PORT,
    )
    address = config.listeners.main.host
    if address is not None and address.is_global:
        node = replace(node, ipv4=str(address)) if address.version == 4 else replace(node, ipv6=str(address))  # noqa: PLR2004
    stun = config.listeners.stun_port
    if stun != STUN_PORT:
        node = replace(node, stun_port=stun or -1)
    return node if config.relay.enabled else replace(node, stun_only=True)


def line(config: Config, chain: Sequence[bytes], port: int) -> str:
    """Return the node as one line of JSON, ready to paste; empty for a DNS name, as with Go's derper."""
    if config.tls.ip is None:
        return ""
    return json.dumps(node_of(config, pin_for(config.tls, chain), port=port).to_json(), separators=(",", ":"))
