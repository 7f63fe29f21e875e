"""The flags of `derpprobe`, and the `ProberConfig` made from them and the environment.

Names and defaults are those of the Go prober; `-json`, `-probe-key` and `-probe-keys` are ours. Parts that both
programs have are in `flags`, `settings` and `environment`.
"""

from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any, Final

from derper.cli import flags
from derper.cli.environment import Environment, debug_access, trusted_roots
from derper.cli.goflags import Flag, Parsed, boolean, duration, integer, string
from derper.cli.settings import TAILSCALED_SOCKET, mesh_key_source
from derper.config import ListenAddress
from derper.errors import ConfigError
from derper.prober.config import Bandwidth, Intervals, ProberConfig, Queuing

PUBLIC_MAP: Final = "https://login.tailscale.com/derpmap/default"
_USUAL_INTERVAL: Final = 15.0
_TUN_PREFIX: Final = 30

DEV = boolean("dev", "take the mesh key from the environment variable TAILSCALE_DERPER_MESH_KEY")
DERP_MAP = string(
    "derp-map",
    PUBLIC_MAP,
    "`URL` of the DERP map, https://, http:// or file://; local for the local tailscaled's",
)
LISTEN = string("listen", ":8030", "`address` of the status page")
ONCE = boolean("once", "run each probe once, print the good and the bad ones, and exit with 1 if any is bad")
JSON = boolean("json", "with -once: print JSON on standard output")
SPREAD = boolean("spread", "spread the probes over time", default=True)
INTERVAL = duration("interval", _USUAL_INTERVAL, "how often the DERP map is fetched")
MESH_INTERVAL = duration(
    "mesh-interval", _USUAL_INTERVAL, "how often a packet is sent between two nodes; 0 disables it"
)
STUN_INTERVAL = duration("stun-interval", _USUAL_INTERVAL, "how often STUN is probed; 0 disables it")
TLS_INTERVAL = duration("tls-interval", _USUAL_INTERVAL, "how often certificates are checked; 0 disables it")
BW_INTERVAL = duration("bw-interval", 0, "how often bandwidth is measured; 0 disables it")
BW_PROBE_SIZE_BYTES = integer("bw-probe-size-bytes", 1_000_000, "how many `bytes` a bandwidth probe sends")
BW_TUN_IPV4_ADDR = string(
    "bw-tun-ipv4-addr",
    "",
    "measure bandwidth as TCP in TCP through a TUN device with this `address` and its /30",
)
QD_PACKETS_PER_SECOND = integer(
    "qd-packets-per-second", 0, "measure queuing delay continuously with this many `packets` a second; 0 disables it"
)
QD_PACKET_TIMEOUT = duration(
    "qd-packet-timeout", 5, "age at which a packet counts as dropped when queuing delay is measured"
)
REGION_CODE = string("region-code", "", "probe only the `region` with this code or number")
MESH_PSK_FILE = string(
    "mesh-psk-file", "", "`file` with the mesh key of the nodes, 64 hex digits; the prober logs in with it"
)
PROBE_KEY = string(
    "probe-key",
    "",
    "`file` of a secret, made when it is missing, that the keys of the probing clients are derived from:\n"
    "they stay the same, so that servers which verify their clients can be told of them",
)
PROBE_KEYS = boolean("probe-keys", "with -probe-key: print the clients' public keys for the DERP map, and exit")

DERPPROBE_FLAGS: Final[tuple[Flag[Any], ...]] = (
    DEV,
    flags.VERSION,
    DERP_MAP,
    LISTEN,
    ONCE,
    JSON,
    SPREAD,
    INTERVAL,
    MESH_INTERVAL,
    STUN_INTERVAL,
    TLS_INTERVAL,
    BW_INTERVAL,
    BW_PROBE_SIZE_BYTES,
    BW_TUN_IPV4_ADDR,
    QD_PACKETS_PER_SECOND,
    QD_PACKET_TIMEOUT,
    REGION_CODE,
    MESH_PSK_FILE,
    flags.SECRETS_URL,
    flags.SECRETS_PATH_PREFIX,
    flags.SECRETS_CACHE_DIR,
    PROBE_KEY,
    PROBE_KEYS,
)


def config_from(line: Parsed, environment: Environment) -> ProberConfig:
    """Return the prober's configuration; raise `ConfigError` if it is invalid."""
    file = Path(line[MESH_PSK_FILE]) if line[MESH_PSK_FILE] else None
    if line[JSON] and not line[ONCE]:
        raise ConfigError("-json says how the results of -once are printed; give -once too")
    if line[PROBE_KEYS] and not line[PROBE_KEY]:
        raise ConfigError("-probe-keys prints the keys that come of -probe-key; give -probe-key too")
    return ProberConfig(
        map_source=line[DERP_MAP],
        tailscaled_socket=Path(TAILSCALED_SOCKET),
        region=line[REGION_CODE],
        listen=ListenAddress.parse(line[LISTEN]),
        spread=line[SPREAD],
        intervals=Intervals(
            derp_map=_map_interval(line),
            tls=_interval(line, TLS_INTERVAL),
            stun=_interval(line, STUN_INTERVAL),
            mesh=_interval(line, MESH_INTERVAL),
            bandwidth=_interval(line, BW_INTERVAL),
        ),
        bandwidth=Bandwidth(_size(line), _tun(line)),
        queuing=Queuing(max(0, line[QD_PACKETS_PER_SECOND]), _timeout(line)),
        mesh_key=mesh_key_source(line, environment, file),
        probe_key=Path(line[PROBE_KEY]) if line[PROBE_KEY] else None,
        roots=trusted_roots(environment),
        proxies=environment.proxies(),
        debug=debug_access(environment),
    )


def _interval(line: Parsed, flag: Flag[float]) -> float | None:
    return line[flag] if line[flag] > 0 else None


def _map_interval(line: Parsed) -> float:
    if line[INTERVAL] <= 0:
        if line[ONCE]:  # the Go prober accepts it with -once, where it only limits the fetch of the map
            return _USUAL_INTERVAL
        raise ConfigError("-interval is not positive; give how often the DERP map is to be fetched")
    return line[INTERVAL]


def _size(line: Parsed) -> int:
    size = line[BW_PROBE_SIZE_BYTES]
    if size <= 0 and line[BW_INTERVAL] > 0:
        raise ConfigError(f"-bw-probe-size-bytes is {size}; give how many bytes a bandwidth probe is to send")
    return size


def _timeout(line: Parsed) -> float:
    if line[QD_PACKET_TIMEOUT] <= 0 and line[QD_PACKETS_PER_SECOND] > 0:
        raise ConfigError("-qd-packet-timeout is not positive; give how late a packet counts as dropped")
    return line[QD_PACKET_TIMEOUT]


def _tun(line: Parsed) -> IPv4Interface | None:
    text = line[BW_TUN_IPV4_ADDR]
    if not text:
        return None
    try:
        interface = IPv4Interface(f"{text}/{_TUN_PREFIX}")
    except ValueError:
        raise ConfigError(f"-bw-tun-ipv4-addr is '{text}'; give an IPv4 address such as 10.99.0.1") from None
    if interface.ip not in list(interface.network.hosts()):
        first, second = interface.network.hosts()
        raise ConfigError(f"-bw-tun-ipv4-addr is {text}, which its /30 cannot use; give {first} or {second}")
    return interface
