"""The immutable configuration of a prober; `derper.cli.probing` creates it from flags and environment.

Seconds are floats. A class of probes whose interval is `None` is off.
"""

from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from derper.config import DebugAccess, ListenAddress, SecretsServer
from derper.host.proxies import Proxies
from derper.host.trusted import TrustedRoots
from derper.protocol.keys import MeshKey


@dataclass(frozen=True, slots=True)
class Intervals:
    """The interval of each class of probes."""

    derp_map: float
    tls: float | None
    stun: float | None
    mesh: float | None
    bandwidth: float | None


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """The transfer of a bandwidth probe."""

    size: int  # bytes, at least 1
    tun: IPv4Interface | None  # the device's own address in its /30; None: no device


@dataclass(frozen=True, slots=True)
class Queuing:
    """The continuous probe of queuing delays."""

    packets_per_second: int  # 0: off
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProberConfig:
    """The whole configuration, parsed."""

    map_source: str  # an https, http or file URL, or "local" for the tailscaled on this machine
    tailscaled_socket: Path
    region: str  # its code or number; empty: all regions
    listen: ListenAddress
    spread: bool
    intervals: Intervals
    bandwidth: Bandwidth
    queuing: Queuing
    mesh_key: MeshKey | Path | SecretsServer | None  # the key or its source
    probe_key: Path | None  # file of the secret for the probing clients' keys; None: random keys
    roots: TrustedRoots
    proxies: Proxies
    debug: DebugAccess
