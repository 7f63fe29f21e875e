"""The immutable configuration that the whole server is built from.

`derper.cli.settings` creates it from flags and environment, once. No other code reads these again, and files are read
only from the paths here. Every value has its final type: addresses, paths, seconds as float, `None` for "off". An
invalid value raises `ConfigError` before a `Config` exists. Read from the bottom: `Config` names the groups.
"""

import math
import re
from base64 import b64decode
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Self

from derper.addresses import IPAddress
from derper.errors import ConfigError
from derper.host.proxies import Proxies
from derper.host.trusted import TrustedRoots
from derper.protocol.keys import MeshKey, NodePublic

IPNetwork = IPv4Network | IPv6Network

HTTPS_PORT = 443
FIRST_SOCKET = 3
"""The descriptor of the first inherited socket (sd_listen_fds(3))."""
PREDECESSOR = "DERPER_PREDECESSOR"
"""The environment variable with the predecessor's process id, in a hand-over."""
MAX_PORT = 65535
_MAX_NAME = 253
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PORT_NAMES = {"": "0", "http": "80", "https": str(HTTPS_PORT)}
# For 0.0.0.0, Go also listens on IPv6, so operators with this setting have IPv6 clients.
_EVERYWHERE = {"", "[]", "0.0.0.0"}


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """The address of a listening socket. Port 0 lets the kernel choose."""

    host: IPAddress | None  # None: all addresses of both families
    port: int  # 0..65535

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the address in `:port`, `ip:port`, `[ip6]:port` or `[ip6%interface]:port`.

        The host may be `localhost`; the port may be `http`, `https` or empty.
        """
        wanted = f"the listen address '{text}' is not one; write ':port', 'ip:port' or '[ip6]:port'"
        host, colon, port = text.rpartition(":")
        port = _PORT_NAMES.get(port, port)
        if not colon or not (port.isascii() and port.isdecimal()) or int(port) > MAX_PORT:
            raise ConfigError(wanted)
        bracketed = host.startswith("[") and host.endswith("]")
        if host in _EVERYWHERE:
            return cls(None, int(port))
        name = host[1:-1] if bracketed else host
        try:
            address = ip_address("127.0.0.1" if name == "localhost" else name)
        except ValueError:
            raise ConfigError(wanted) from None
        if isinstance(address, IPv6Address):
            if not bracketed:
                raise ConfigError(wanted)
            if address.ipv4_mapped is not None:  # an IPv4 socket, as in Go
                address = address.ipv4_mapped
        return cls(None if str(address) == "0.0.0.0" else address, int(port))

    def with_port(self, port: int) -> Self:
        """Return the same host with another port."""
        return replace(self, port=port)

    def __str__(self) -> str:
        host = "" if self.host is None else f"[{self.host}]" if self.host.version == 6 else str(self.host)  # noqa: PLR2004  (IPv6)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Listeners:
    """The listening sockets; plain HTTP and STUN use the main listener's host (see `Config.http_address`)."""

    main: ListenAddress
    http_port: int | None  # None: off
    stun_port: int | None  # None: off
    stun_any: bool  # answer all STUN clients, not only Tailscale's
    trusted_proxies: tuple[IPNetwork, ...]  # X-Forwarded-For from these is used
    proxies: tuple[IPNetwork, ...]  # every connection from these begins with a PROXY header
    per_ip: int | None  # connections per address; None: unlimited
    tls: bool | None = None  # TLS on the main listener; None: decided by its port and the certificates


class CertMode(StrEnum):
    """The source of certificates."""

    MANUAL = "manual"
    LETSENCRYPT = "letsencrypt"
    GCP = "gcp"


LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
GOOGLE = "https://dv.acme-v02.api.pki.goog/directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acme:
    """The CA, and how names are proved to it."""

    directory: str = LETS_ENCRYPT
    roots: Path | None = None  # trusted roots for the directory's own certificate; None: as for all outgoing TLS
    email: str = ""
    eab_kid: str = ""  # the id of an external account at the CA (RFC 8555, 7.3.4); "": none
    eab_key: str = field(default="", repr=False)  # base64, as given
    eab_key_file: Path | None = None  # instead of `eab_key`
    dns_hook: Path | None = None  # a program; proves names by DNS-01 only
    ip_certificates: bool = False

    @property
    def binds_an_account(self) -> bool:
        """True if the account at the CA is bound to an external one; Let's Encrypt does not support that."""
        return bool(self.eab_kid) and self.directory != LETS_ENCRYPT


def eab_key(text: str, source: str) -> bytes:
    """Return the key of an external account, from base64: standard or URL-safe, with or without padding.

    Raises:
        ConfigError: The text is invalid; the message contains `source`, and never the text.
    """
    plain = text.strip().translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        key = b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ConfigError(f"{source} is not in base64; give the key of the external account as its CA shows it")
    return key


def is_dns_name(text: str) -> bool:
    """Return whether a certificate can be for that name: labels of letters, digits, hyphens and underscores."""
    name = text.removesuffix(".")
    return len(name) <= _MAX_NAME and _DNS_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Tls:
    """The certificates' host, source and directory."""

    mode: CertMode
    hostname: str  # a DNS name or an IP address
    directory: Path | None  # None: no directory is known; always set with TLS
    acme: Acme

    @property
    def ip(self) -> IPAddress | None:
        """The host name as an address, if it is one."""
        try:
            return ip_address(self.hostname)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class SecretsServer:
    """A setec server with the mesh key under `name`; `cache_file` contains the last key fetched."""

    url: str
    name: str
    cache_file: Path | None
    proxy: str | None = field(default=None, repr=False)  # proxy for its requests


@dataclass(frozen=True, slots=True)
class MeshPeer:
    """Another node of the region: `https://host:port/derp`, dialled at `dial_host` and the same port.

    With `every_address` the dialled name has one address per node, and all nodes have the same certificate name.
    """

    host: str
    port: int
    dial_host: str
    every_address: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the node in `host` or `host:port`, either followed by `/dialhost` or `/dns:name-of-many-nodes`."""
        named, slash, dial_host = text.partition("/")
        host, colon, port = named.rpartition(":") if not named.endswith("]") else (named, "", "")
        if not colon:
            host, port = named, str(HTTPS_PORT)
        if "/" in dial_host or not host or (slash and not dial_host):
            raise ConfigError(f"-mesh-with has '{text}'; write each node as 'host' or 'host/dialhost'")
        if not (port.isascii() and port.isdecimal() and 0 < int(port) <= MAX_PORT):
            raise ConfigError(f"-mesh-with has '{text}', whose port is not a number from 1 to {MAX_PORT}")
        many = dial_host.startswith("dns:")
        dial_host = dial_host.removeprefix("dns:") if many else dial_host or host
        if not dial_host:
            raise ConfigError(f"-mesh-with has '{text}', where 'dns:' needs a name after it")
        return cls(host.strip("[]"), int(port), dial_host.strip("[]"), every_address=many)


@dataclass(frozen=True, slots=True)
class Mesh:
    """The region's other nodes, and the source of their shared key (`None`: no key)."""

    key_source: MeshKey | Path | SecretsServer | None
    peers: tuple[MeshPeer, ...]


@dataclass(frozen=True, slots=True)
class Admission:
    """The configured admission checks. Empty checks are skipped; one of several sockets or URLs is enough."""

    refused_app_names: frozenset[str]
    tailscaled_sockets: tuple[Path, ...]
    urls: tuple[str, ...]
    url_fail_open: bool  # admit clients while a URL is unreachable
    allow_keys: Path | None  # a file with the allowed keys
    any_kind: bool  # one kind of check is enough; else all kinds are required
    cache: float  # seconds for which the last admission is reused if a check does not answer
    interval: float  # seconds between two checks of a connected client; 0: no repeated checks


@dataclass(frozen=True, slots=True)
class BootstrapName:
    """A name of the unpublished bootstrap DNS set; its TXT record has the percentage (no record: all callers)."""

    name: str
    rollout_txt: str | None


@dataclass(frozen=True, slots=True)
class DebugAccess:
    """Access to the debug pages from addresses other than loopback and Tailscale."""

    address: IPAddress | None
    networks: tuple[IPNetwork, ...]
    key_file: Path | None


@dataclass(frozen=True, slots=True)
class Admin:
    """The admin listener: it replaces the public debug pages and can change the server; one field is set."""

    socket: Path | None
    address: ListenAddress | None  # loopback, unless there is a token
    token_file: Path | None


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages on the public ports."""

    home: str  # "": the page, "blank": nothing, else an http(s) URL to redirect to
    bootstrap_names: tuple[str, ...]
    unpublished_bootstrap_names: tuple[BootstrapName, ...]
    ace: bool
    debug: DebugAccess


@dataclass(frozen=True, slots=True)
class Tcp:
    """Time limits of client connections, in seconds."""

    keepalive_time: float
    user_timeout: float
    write_timeout: float | None  # None: no timeout


@dataclass(frozen=True, slots=True)
class AcceptLimit:
    """A token bucket for new connections; an infinite `per_second` is no limit."""

    per_second: float
    burst: int

    @property
    def is_limit(self) -> bool:
        """True if the bucket can ever be empty."""
        return not math.isinf(self.per_second)


@dataclass(frozen=True, slots=True)
class Relay:
    """The settings of the data plane."""

    enabled: bool  # False: only STUN, bootstrap DNS and the pages
    shards: int  # epoll threads, at least 1
    send_queue_depth: int  # packets per client, at least 1
    max_queued_bytes: int  # of all clients together
    max_routes: int  # routes of all senders together
    memory: int  # bytes that the process may use
    tcp: Tcp
    accept: AcceptLimit
    rate_file: Path | None
    announce_limits: bool  # announce rate limits to clients


@dataclass(frozen=True, slots=True)
class Observation:
    """Optional counts and log lines."""

    count_senders: bool
    rtt_stats: bool
    verbose_drops: frozenset[NodePublic]  # destinations whose dropped packets are logged


class LogFormat(StrEnum):
    """The form of log lines."""

    AUTO = "auto"  # text on a terminal, else logfmt
    TEXT = "text"
    LOGFMT = "logfmt"
    JSON = "json"


class LogLevel(StrEnum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Logs:
    """The settings of the log."""

    format: LogFormat = LogFormat.AUTO
    level: LogLevel = LogLevel.INFO


@dataclass(frozen=True, slots=True)
class Supervision:
    """The expectations and sockets of the process's parent (sd_notify(3), sd_listen_fds(3))."""

    notify_socket: str | None = None
    watchdog: float | None = None  # seconds between two watchdog notifications, at most
    sockets: tuple[str, ...] = ()  # names of the inherited sockets, from FIRST_SOCKET on
    ready_fd: int | None = None  # a descriptor on which the predecessor waits for a byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration, parsed."""

    dev: bool
    key_file: Path | None  # None if and only if `dev` is set: a new key for each run
    listeners: Listeners
    tls: Tls
    relay: Relay
    admission: Admission
    mesh: Mesh
    pages: Pages
    admin: Admin | None
    observation: Observation
    logs: Logs
    roots: TrustedRoots
    proxies: Proxies
    supervision: Supervision
    drain_timeout: float  # seconds

    @property
    def serves_tls(self) -> bool:
        """True if the main listener uses TLS: by setting, by port 443, or because certificates are from files."""
        if self.listeners.tls is not None:
            return self.listeners.tls
        return self.listeners.main.port == HTTPS_PORT or self.tls.mode is CertMode.MANUAL

    @property
    def public_debug(self) -> DebugAccess | None:
        """Access to the debug pages on the public ports; `None`: they are off."""
        return self.pages.debug if self.admin is None else None

    @property
    def http_address(self) -> ListenAddress | None:
        """The address of the second, plain HTTP listener; it exists only beside TLS."""
        port = self.listeners.http_port
        return self.listeners.main.with_port(port) if self.serves_tls and port is not None else None

    @property
    def stun_address(self) -> ListenAddress | None:
        """The UDP address for STUN."""
        port = self.listeners.stun_port
        return None if port is None else self.listeners.main.with_port(port)
