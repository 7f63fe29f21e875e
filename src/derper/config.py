"""The one immutable object that the whole server is built from.

`derper.cli.settings` makes it of flags and environment, once; nothing below reads either again, and files only where a
path stands here. Every value has its final type: addresses, paths, seconds as float, `None` for "off". A value that
cannot be is a `ConfigError` before a `Config` exists. Read from the bottom: `Config` names the groups.
"""

import math
import re
from base64 import b64decode
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Self

from derper.errors import ConfigError
from derper.host.proxies import Proxies
from derper.protocol.keys import MeshKey, NodePublic

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

HTTPS_PORT = 443
FIRST_SOCKET = 3
"""The descriptor of the first socket that is handed over (sd_listen_fds(3))."""
PREDECESSOR = "DERPER_PREDECESSOR"
"""The variable by which a server tells the one that succeeds it who it is: its process id."""
MAX_PORT = 65535
_MAX_NAME = 253
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PORT_NAMES = {"": "0", "http": "80", "https": str(HTTPS_PORT)}
# Go listens on both families for the last one, too, and operators' IPv6 clients have come that way.
_EVERYWHERE = {"", "[]", "0.0.0.0"}


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where a socket listens. Port 0 lets the kernel choose."""

    host: IPAddress | None  # None: every address of both families
    port: int  # 0..65535

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `:port`, `ip:port`, `[ip6]:port`, `[ip6%interface]:port`.

        `localhost` is taken for a host, and `http`, `https` or nothing for a port.
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
            if address.ipv4_mapped is not None:  # as Go has it: a socket of IPv4
                address = address.ipv4_mapped
        return cls(None if str(address) == "0.0.0.0" else address, int(port))

    def with_port(self, port: int) -> Self:
        """The same host with another port."""
        return replace(self, port=port)

    def __str__(self) -> str:
        host = "" if self.host is None else f"[{self.host}]" if self.host.version == 6 else str(self.host)  # noqa: PLR2004  (IPv6)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Listeners:
    """The sockets. Plain HTTP and STUN share the main listener's host; see `Config.http_address` for when they run."""

    main: ListenAddress
    http_port: int | None  # None: off
    stun_port: int | None  # None: no STUN
    stun_any: bool  # answer STUN clients other than Tailscale's, too
    trusted_proxies: tuple[IPNetwork, ...]  # whose X-Forwarded-For says who a client is
    proxies: tuple[IPNetwork, ...]  # where connections come from that begin with a PROXY header, all of them
    per_ip: int | None  # connections of one address; None: any number
    tls: bool | None = None  # whether the main listener speaks TLS; None: as its port and the certificates say


class CertMode(StrEnum):
    """Where certificates come from."""

    MANUAL = "manual"
    LETSENCRYPT = "letsencrypt"
    GCP = "gcp"


LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
GOOGLE = "https://dv.acme-v02.api.pki.goog/directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acme:
    """Who issues certificates, for whom, and how a name is proved."""

    directory: str = LETS_ENCRYPT
    roots: Path | None = None  # whom the directory's own certificate is trusted by; None: as all outgoing TLS
    email: str = ""
    eab_kid: str = ""  # by what the CA knows whose account it is (RFC 8555, 7.3.4); "": by nothing
    eab_key: str = field(default="", repr=False)  # as it was given
    eab_key_file: Path | None = None  # instead of `eab_key`
    dns_hook: Path | None = None  # proves names by DNS-01 alone
    ip_certificates: bool = False

    @property
    def binds_an_account(self) -> bool:
        """Whether the CA is to be told of an account elsewhere; Let's Encrypt knows of none."""
        return bool(self.eab_kid) and self.directory != LETS_ENCRYPT


def eab_key(text: str, source: str) -> bytes:
    """Read the key of an external account: base64, standard or URL-safe, with padding or without.

    Raises:
        ConfigError: it is not; `source` says where it stands, and the message does not say what it is.
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
    """Whether a certificate can be for that name: labels of letters, digits, hyphens, with underscores let through."""
    name = text.removesuffix(".")
    return len(name) <= _MAX_NAME and _DNS_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates: whose, from where, kept where."""

    mode: CertMode
    hostname: str  # a DNS name or an IP address
    directory: Path | None  # None: no place is known; never so when TLS is served
    acme: Acme

    @property
    def ip(self) -> IPAddress | None:
        """The host name as an address, when it is one."""
        try:
            return ip_address(self.hostname)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class SecretsServer:
    """A setec server that holds the mesh key under `name`; `cache_file` keeps the last one seen."""

    url: str
    name: str
    cache_file: Path | None
    proxy: str | None = field(default=None, repr=False)  # through which it is asked


@dataclass(frozen=True, slots=True)
class MeshPeer:
    """Another node of the region: `https://host:port/derp`, dialled at `dial_host` and the same port.

    With `every_address` the name to dial is that of many nodes behind one certificate name, each address one of them.
    """

    host: str
    port: int
    dial_host: str
    every_address: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host`, `host:port`, either with `/dialhost` or `/dns:name-of-many-nodes` behind it."""
        named, slash, dial_host = text.partition("/")
        host, colon, port = named.rpartition(":") if not named.endswith("]") else (named, "", "")
        if not colon:
            host, port = named, str(HTTPS_PORT)
        if "/" in dial_host or not host or (slash and not dial_host):
            raise ConfigError(f"-mesh-with has '{text}'; write each node as 'host' or 'host/dialhost'")
        if not (port.isascii() and port.isdecimal() and 0 < int(port) <= MAX_PORT):
            raise ConfigError(f"-mesh-with has '{text}', whose port is no number from 1 to {MAX_PORT}")
        many = dial_host.startswith("dns:")
        dial_host = dial_host.removeprefix("dns:") if many else dial_host or host
        if not dial_host:
            raise ConfigError(f"-mesh-with has '{text}', where 'dns:' wants a name behind it")
        return cls(host.strip("[]"), int(port), dial_host.strip("[]"), every_address=many)


@dataclass(frozen=True, slots=True)
class Mesh:
    """The region's other nodes, and where the key that they share comes from (`None`: there is none)."""

    key_source: MeshKey | Path | SecretsServer | None
    peers: tuple[MeshPeer, ...]


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may connect. A check that is empty is not made; of several sockets or URLs, one has to know the client."""

    refused_app_names: frozenset[str]
    tailscaled_sockets: tuple[Path, ...]
    urls: tuple[str, ...]
    url_fail_open: bool  # whether an unreachable URL admits
    allow_keys: Path | None  # a file with the keys of those who may
    any_kind: bool  # one kind of check is enough
    cache: float  # seconds for which the last "yes" stands in for no answer
    interval: float  # seconds after which those who are in are asked about again; 0: never


@dataclass(frozen=True, slots=True)
class BootstrapName:
    """A name of the unpublished bootstrap DNS set; its TXT record gives the percentage (none: everybody)."""

    name: str
    rollout_txt: str | None


@dataclass(frozen=True, slots=True)
class DebugAccess:
    """Who may see the debug pages besides loopback and Tailscale addresses."""

    address: IPAddress | None
    networks: tuple[IPNetwork, ...]
    key_file: Path | None


@dataclass(frozen=True, slots=True)
class Admin:
    """Where the debug pages are instead of the public ports, with what changes the server: one of the two places."""

    socket: Path | None
    address: ListenAddress | None  # loopback, unless there is a token
    token_file: Path | None


@dataclass(frozen=True, slots=True)
class Pages:
    """What HTTP serves beside the relay."""

    home: str  # "": the page, "blank": nothing, else an http(s) URL to go to
    bootstrap_names: tuple[str, ...]
    unpublished_bootstrap_names: tuple[BootstrapName, ...]
    ace: bool
    debug: DebugAccess


@dataclass(frozen=True, slots=True)
class Tcp:
    """Time limits of client connections, in seconds."""

    keepalive_time: float
    user_timeout: float
    write_timeout: float | None  # None: none


@dataclass(frozen=True, slots=True)
class AcceptLimit:
    """How many connections are taken, as a token bucket; `per_second` infinite: all."""

    per_second: float
    burst: int

    @property
    def is_limit(self) -> bool:
        """Whether any connection could ever be held back."""
        return not math.isinf(self.per_second)


@dataclass(frozen=True, slots=True)
class Relay:
    """How packets are moved."""

    enabled: bool  # False: STUN, bootstrap DNS and the pages alone
    shards: int  # epoll threads, at least 1
    send_queue_depth: int  # packets a client, at least 1
    max_queued_bytes: int  # of all clients together
    max_routes: int  # destinations remembered, of all senders together
    memory: int  # bytes that the process may use
    tcp: Tcp
    accept: AcceptLimit
    rate_file: Path | None
    announce_limits: bool  # tell clients of their limits


@dataclass(frozen=True, slots=True)
class Observation:
    """What is counted and logged beyond the usual."""

    count_senders: bool
    rtt_stats: bool
    verbose_drops: frozenset[NodePublic]  # destinations whose dropped packets are logged


class LogFormat(StrEnum):
    """What a log line looks like."""

    AUTO = "auto"  # text on a terminal, else logfmt
    TEXT = "text"
    LOGFMT = "logfmt"
    JSON = "json"


class LogLevel(StrEnum):
    """The least that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Logs:
    """How the program speaks to its operator."""

    format: LogFormat = LogFormat.AUTO
    level: LogLevel = LogLevel.INFO


@dataclass(frozen=True, slots=True)
class Supervision:
    """What the program that started this one expects of it and hands over (sd_notify(3), sd_listen_fds(3))."""

    notify_socket: str | None = None
    watchdog: float | None = None  # seconds within which it wants a sign of life
    sockets: tuple[str, ...] = ()  # the names of the sockets handed over, from FIRST_SOCKET on
    ready_fd: int | None = None  # where the server that this one succeeds waits for a byte


@dataclass(frozen=True, slots=True)
class TrustedRoots:
    """The roots for outgoing TLS; with neither a file nor directories, the system's."""

    file: Path | None
    directories: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All that an operator decided, parsed."""

    dev: bool
    key_file: Path | None  # None exactly with `dev`: a fresh key each time
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
    drain_timeout: float  # seconds that sending clients away may take

    @property
    def serves_tls(self) -> bool:
        """Whether the main listener speaks TLS: told plainly, or on port 443, or with certificates given by hand."""
        if self.listeners.tls is not None:
            return self.listeners.tls
        return self.listeners.main.port == HTTPS_PORT or self.tls.mode is CertMode.MANUAL

    @property
    def public_debug(self) -> DebugAccess | None:
        """Who may see the debug pages on the public ports; `None`: nobody."""
        return self.pages.debug if self.admin is None else None

    @property
    def http_address(self) -> ListenAddress | None:
        """Where the second, plain HTTP listener stands, which exists only beside TLS."""
        port = self.listeners.http_port
        return self.listeners.main.with_port(port) if self.serves_tls and port is not None else None

    @property
    def stun_address(self) -> ListenAddress | None:
        """Where STUN is answered, over UDP."""
        port = self.listeners.stun_port
        return None if port is None else self.listeners.main.with_port(port)
