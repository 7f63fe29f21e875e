"""Flags and environment in, `Config` out: the one place where either is understood.

Pure but for a look whether a default file exists. What cannot be raises `ConfigError` with the flag or variable in it.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from posixpath import join, normpath
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from derper.cli import flags
from derper.cli.goflags import Flag, Parsed
from derper.cli.govalues import parse_bool
from derper.config import (
    FIRST_SOCKET,
    GOOGLE,
    HTTPS_PORT,
    LETS_ENCRYPT,
    MAX_PORT,
    PREDECESSOR,
    AcceptLimit,
    Acme,
    Admin,
    Admission,
    BootstrapName,
    CertMode,
    Config,
    DebugAccess,
    IPNetwork,
    ListenAddress,
    Listeners,
    LogFormat,
    LogLevel,
    Logs,
    Mesh,
    MeshPeer,
    Observation,
    Pages,
    Relay,
    SecretsServer,
    Supervision,
    Tcp,
    Tls,
    TrustedRoots,
    eab_key,
    is_dns_name,
)
from derper.errors import ConfigError, ProtocolError
from derper.protocol.keys import MeshKey, NodePublic

T = TypeVar("T")
Choice = TypeVar("Choice", bound=StrEnum)

DEV_ADDRESS = ListenAddress(None, 3340)
ROOTS_KEY_FILE = Path("/var/lib/derper/derper.key")
TAILSCALED_SOCKET = "/var/run/tailscale/tailscaled.sock"
SEND_QUEUE_DEPTH = 32
LEAST_QUEUED_BYTES = 1 << 20  # less than what moves in a moment would cost throughput
MOST_PER_IP = 1_000_000


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the process finds around it, handed in so that a test can make its own."""

    environ: Mapping[str, str]
    is_root: bool
    cores: int
    pid: int = 0
    parent: int = 0
    memory: int = 4 << 30  # bytes that it may use

    @classmethod
    def of_this_process(cls) -> Self:
        """Those of the running process."""
        cores = len(os.sched_getaffinity(0))
        return cls(os.environ, os.geteuid() == 0, cores, os.getpid(), os.getppid(), _memory())

    def read(self, name: str, reader: Callable[[str], T], wanted: str) -> T | None:
        """A variable's value, `None` when it is unset or empty; what `reader` refuses is a `ConfigError`."""
        text = self.environ.get(name, "")
        if not text:
            return None
        try:
            return reader(text)
        except (ValueError, ProtocolError):
            raise ConfigError(f"the environment variable {name} is not {wanted}; correct or unset it") from None

    def is_set(self, name: str) -> bool:
        """A boolean variable in Go's spellings."""
        return bool(self.read(name, parse_bool, "true or false"))

    def home(self, *parts: str) -> Path | None:
        """A path below the home directory."""
        home = self.environ.get("HOME")
        return Path(home, *parts) if home else None

    def cache(self, *parts: str) -> Path | None:
        """A path below the user's cache directory."""
        cache = self.environ.get("XDG_CACHE_HOME")
        return Path(cache, *parts) if cache else self.home(".cache", *parts)


def config_from(line: Parsed, around: Surroundings) -> Config:
    """The server's `Config`. Raises `ConfigError` for what cannot be."""
    dev = line[flags.DEV]
    main = DEV_ADDRESS if dev else ListenAddress.parse(line[flags.LISTEN])
    speaks_tls = _on_or_off(line, flags.TLS)
    config = Config(
        dev=dev,
        key_file=None if dev else _key_file(line, around),
        listeners=Listeners(
            main=main,
            http_port=_port(line, flags.HTTP_PORT) if line[flags.HTTP_PORT] >= 0 else None,
            stun_port=_port(line, flags.STUN_PORT) if line[flags.STUN] and line[flags.STUN_PORT] >= 0 else None,
            stun_any=line[flags.STUN_ANY],
            trusted_proxies=_proxies(line, flags.TRUSTED_PROXIES),
            proxies=_proxies(line, flags.PROXY_PROTOCOL),
            per_ip=_per_ip(line),
            tls=speaks_tls,
        ),
        tls=_tls(line, around, matters=speaks_tls or (speaks_tls is None and main.port == HTTPS_PORT)),
        relay=_relay(line, around),
        admission=_admission(line),
        mesh=_mesh(line, around),
        pages=_pages(line, around),
        admin=_admin(line, around),
        observation=Observation(
            count_senders=around.is_set("TS_DERP_SENDER_CARDINALITY"),
            rtt_stats=not around.is_set("TS_DERP_DISABLE_RTT_STATS"),
            verbose_drops=around.read("TS_DEBUG_VERBOSE_DROPS", _keys, "a list of keys in hex") or frozenset(),
            prober_logs=around.is_set("DERP_PROBER_DEBUG_LOGS"),
        ),
        logs=_logs(line, around),
        roots=trusted_roots(around),
        supervision=_supervision(around),
        drain_timeout=_not_negative(line, flags.DRAIN_TIMEOUT),
    )
    if config.serves_tls:
        _check_tls(config.tls)
    return config


def _key_file(line: Parsed, around: Surroundings) -> Path:
    if line[flags.CONFIG]:
        return Path(line[flags.CONFIG])
    if around.is_root:
        return ROOTS_KEY_FILE
    raise ConfigError("there is no place for the server's key; name a file with -c, as only root has a default one")


def _tls(line: Parsed, around: Surroundings, *, matters: bool) -> Tls:
    # A mode that is none is no error where there is plain HTTP without it: there are unit files with such.
    known = matters or line[flags.CERT_MODE] in set(CertMode)
    mode = _choice(line, flags.CERT_MODE, CertMode) if known else CertMode.LETSENCRYPT
    given = line[flags.CERT_DIR]
    directory = Path(given) if given else None
    if not line.given(flags.CERT_DIR):
        directory = around.cache("tailscale", "derper-certs")
    return Tls(
        mode=mode,
        hostname=line[flags.HOSTNAME],
        directory=directory,
        acme=_acme(line, mode),
        asked_for=line.given(flags.CERT_MODE),
    )


def _acme(line: Parsed, mode: CertMode) -> Acme:
    directory = line[flags.ACME_DIRECTORY]
    if directory and not (_is_http_url(directory) and directory.startswith("https://")):
        raise ConfigError(f"-acme-directory is '{directory}'; give an https URL")
    roots, hook = line[flags.ACME_DIRECTORY_CA], line[flags.ACME_DNS_HOOK]
    return Acme(
        directory=directory or (GOOGLE if mode is CertMode.GCP else LETS_ENCRYPT),
        roots=Path(roots) if roots else None,
        email=line[flags.ACME_EMAIL],
        eab_kid=line[flags.ACME_EAB_KID],
        eab_key=line[flags.ACME_EAB_KEY],
        eab_key_file=Path(line[flags.ACME_EAB_KEY_FILE]) if line[flags.ACME_EAB_KEY_FILE] else None,
        dns_hook=Path(hook) if hook else None,
        ip_certificates=line[flags.ACME_IP_CERTS],
    )


def _check_tls(tls: Tls) -> None:
    """What only matters once TLS is served."""
    if tls.directory is None:
        raise ConfigError("there is no directory for certificates; name one with -certdir")
    if not tls.hostname:
        raise ConfigError("TLS needs a host name; give it with -hostname")
    if tls.acme.ip_certificates and tls.mode is not CertMode.LETSENCRYPT:
        raise ConfigError(f"-acme-ip-certs needs -certmode=letsencrypt, and that is {tls.mode}; leave one of them out")
    by_ip = tls.mode is CertMode.MANUAL or (tls.mode is CertMode.LETSENCRYPT and tls.acme.ip_certificates)
    if tls.ip is not None and not by_ip:
        raise ConfigError(f"-hostname is the IP address {tls.ip}, which needs -certmode=manual or -acme-ip-certs")
    acme = tls.acme
    if tls.mode is CertMode.GCP and not (acme.email and acme.eab_kid and (acme.eab_key or acme.eab_key_file)):
        raise ConfigError("-certmode=gcp needs -acme-email, -acme-eab-kid and -acme-eab-key")
    if acme.eab_key and acme.eab_key_file:
        raise ConfigError("-acme-eab-key and -acme-eab-key-file are both given; leave one of them out")
    if tls.mode is not CertMode.MANUAL:
        if acme.binds_an_account and acme.eab_key:
            eab_key(acme.eab_key, "-acme-eab-key")
        if tls.ip is None and not is_dns_name(tls.hostname):
            raise ConfigError(
                f"-hostname is '{tls.hostname}', for which no CA issues a certificate; give a DNS name, "
                "one outside ASCII in its form with xn--"
            )


def _relay(line: Parsed, around: Surroundings) -> Relay:
    depth = around.read("TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH", _decimal, "a number")
    return Relay(
        enabled=line[flags.DERP],
        shards=_shards(line, around),
        max_queued_bytes=_max_queued_bytes(line, around),
        send_queue_depth=depth if depth is not None and depth >= 1 else SEND_QUEUE_DEPTH,
        tcp=Tcp(
            keepalive_time=max(0.0, line[flags.TCP_KEEPALIVE_TIME]),
            user_timeout=_not_negative(line, flags.TCP_USER_TIMEOUT),
            write_timeout=_not_negative(line, flags.TCP_WRITE_TIMEOUT) or None,
        ),
        accept=AcceptLimit(line[flags.ACCEPT_CONNECTION_LIMIT], line[flags.ACCEPT_CONNECTION_BURST]),
        rate_file=Path(line[flags.RATE_CONFIG]) if line[flags.RATE_CONFIG] else None,
        announce_limits=line[flags.ANNOUNCE_LIMITS],
    )


def _shards(line: Parsed, around: Surroundings) -> int:
    if not line.given(flags.SHARDS):
        shards = around.read("DERPER_SHARDS", _decimal, "a number")
        source = "DERPER_SHARDS"
    else:
        shards, source = line[flags.SHARDS], "-shards"
    if shards is not None and shards < 0:
        raise ConfigError(f"{source} is {shards}; give the number of threads, or 0 for one a core")
    return shards or around.cores


def _max_queued_bytes(line: Parsed, around: Surroundings) -> int:
    most: int = line[flags.MAX_QUEUED_BYTES]
    if most and most < LEAST_QUEUED_BYTES:
        raise ConfigError(
            f"-max-queued-bytes is {most}; give at least {LEAST_QUEUED_BYTES}, or 0 for a quarter of the memory"
        )
    return most or around.memory // 4


def _memory() -> int:
    """The machine's, or less where this process may not use all of it."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no limit, or none that is told of
        return machine


def _admission(line: Parsed) -> Admission:
    sockets = line[flags.SOCKET] or (TAILSCALED_SOCKET,)
    return Admission(
        refused_app_names=frozenset(_names(line[flags.DISALLOW_APP_NAMES])),
        tailscaled_sockets=tuple(map(Path, sockets)) if line[flags.VERIFY_CLIENTS] else (),
        urls=tuple(_checked_url(flags.VERIFY_CLIENT_URL, url) for url in line[flags.VERIFY_CLIENT_URL]),
        url_fail_open=line[flags.VERIFY_CLIENT_URL_FAIL_OPEN],
        allow_keys=Path(line[flags.ALLOW_KEYS]) if line[flags.ALLOW_KEYS] else None,
        any_kind=line[flags.VERIFY_ANY],
        cache=_not_negative(line, flags.VERIFY_CACHE),
        interval=_not_negative(line, flags.VERIFY_INTERVAL),
    )


def _mesh(line: Parsed, around: Surroundings) -> Mesh:
    peers = tuple(MeshPeer.parse(text) for text in _names(line[flags.MESH_WITH]))
    return Mesh(mesh_key_source(line, around, _psk_file(line, around)), peers)


def mesh_key_source(line: Parsed, around: Surroundings, file: Path | None) -> MeshKey | Path | SecretsServer | None:
    """Where the mesh key comes from, for either program: the environment, a secrets server, or else this file."""
    url = _url(line, flags.SECRETS_URL)
    if line[flags.DEV]:
        return around.read("TAILSCALE_DERPER_MESH_KEY", MeshKey.from_text, "a mesh key of 64 hex digits")
    if url is None:
        return file
    given = line[flags.SECRETS_CACHE_DIR]
    cache_file = Path(given) if given else None
    if not line.given(flags.SECRETS_CACHE_DIR):
        cache_file = around.home(".cache", "derper-secrets")
    return SecretsServer(url, normpath(join(line[flags.SECRETS_PATH_PREFIX], "meshkey")), cache_file)


def _psk_file(line: Parsed, around: Surroundings) -> Path | None:
    if line.given(flags.MESH_PSK_FILE):
        given = line[flags.MESH_PSK_FILE]
        return Path(given) if given else None
    places = (Path("/home/derp/keys/derp-mesh.key"), around.home("keys", "derp-mesh.key"))
    return next((place for place in places if place is not None and _exists(place)), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder on the way that we may not enter: no key of ours is in there
        return False


def _pages(line: Parsed, around: Surroundings) -> Pages:
    home = line[flags.HOME]
    if home not in {"", "blank"} and not _is_http_url(home):
        raise ConfigError(f"-home is '{home}'; leave it empty, or give 'blank' or an http or https URL")
    return Pages(
        home=home,
        bootstrap_names=tuple(_names(line[flags.BOOTSTRAP_DNS_NAMES])),
        unpublished_bootstrap_names=tuple(map(_bootstrap, _names(line[flags.UNPUBLISHED_BOOTSTRAP_DNS_NAMES]))),
        ace=line[flags.ACE],
        debug=debug_access(around),
    )


def debug_access(around: Surroundings) -> DebugAccess:
    """Who may see the debug pages, of either program."""
    return DebugAccess(
        address=around.read("TS_ALLOW_DEBUG_IP", ip_address, "an IP address"),
        networks=around.read("TS_DEBUG_TRUSTED_CIDRS", _networks, "a list of networks such as 10.0.0.0/8") or (),
        key_file=around.read("TS_DEBUG_KEY_PATH", Path, "a path"),
    )


def trusted_roots(around: Surroundings) -> TrustedRoots:
    """Whom outgoing TLS trusts, in either program."""
    return TrustedRoots(
        file=around.read("SSL_CERT_FILE", Path, "a path"),
        directories=around.read("SSL_CERT_DIR", _directories, "a list of paths") or (),
    )


def _supervision(around: Surroundings) -> Supervision:
    """What is meant for this very process: variables may have come down from one further up."""
    environ = around.environ
    succeeds = environ.get(PREDECESSOR) == str(around.parent)
    sockets: tuple[str, ...] = ()
    if succeeds or environ.get("LISTEN_PID") == str(around.pid):
        number = around.read("LISTEN_FDS", _decimal, "a number") or 0
        names = environ.get("LISTEN_FDNAMES", "").split(":")
        sockets = tuple(names[at] if at < len(names) else "" for at in range(number))
    watchdog = None
    if environ.get("WATCHDOG_PID", str(around.pid)) == str(around.pid):
        microseconds = around.read("WATCHDOG_USEC", _decimal, "a number")
        watchdog = microseconds / 1e6 if microseconds else None
    ready_fd = FIRST_SOCKET + len(sockets) if succeeds else None
    return Supervision(environ.get("NOTIFY_SOCKET") or None, watchdog, sockets, ready_fd)


def _logs(line: Parsed, around: Surroundings) -> Logs:
    level = _choice(line, flags.LOG_LEVEL, LogLevel)
    if around.is_set("DERP_DEBUG_LOGS") and not line.given(flags.LOG_LEVEL):
        level = LogLevel.DEBUG
    return Logs(_choice(line, flags.LOG_FORMAT, LogFormat), level)


def _choice(line: Parsed, flag: Flag[str], choices: type[Choice]) -> Choice:
    try:
        return choices(line[flag])
    except ValueError:
        raise ConfigError(f"-{flag.name} is '{line[flag]}'; choose one of {', '.join(choices)}") from None


def _admin(line: Parsed, around: Surroundings) -> Admin | None:
    place, token = line[flags.ADMIN], line[flags.ADMIN_TOKEN_FILE]
    token_file = Path(token) if token else None
    if not place:
        if token_file is not None:
            raise ConfigError("-admin-token-file is of no use without -admin; give that, too, or leave it out")
        return None
    kind, _, path = place.partition(":")
    if kind == "unix":
        return Admin(Path(path) if path else _admin_socket(around), None, token_file)
    address = ListenAddress.parse(place)
    if token_file is None and (address.host is None or not address.host.is_loopback):
        raise ConfigError(
            f"-admin={place} can be reached from elsewhere and needs -admin-token-file; "
            "give that, or listen on a loopback address or a unix socket"
        )
    return Admin(None, address, token_file)


def _admin_socket(around: Surroundings) -> Path:
    """The default place, in the first of the directories that systemd makes for a service."""
    directory = around.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if not directory:
        raise ConfigError(
            "-admin=unix wants $RUNTIME_DIRECTORY, which a unit has with RuntimeDirectory=derper; "
            "set that, or name the socket as -admin=unix:PATH"
        )
    return Path(directory, "admin.sock")


def _bootstrap(text: str) -> BootstrapName:
    name, _, rollout_txt = text.partition("/")
    return BootstrapName(name, rollout_txt or None)


def _port(line: Parsed, flag: Flag[int]) -> int:
    if not 0 <= line[flag] <= MAX_PORT:
        raise ConfigError(f"-{flag.name} is {line[flag]}; give a port from 0 to {MAX_PORT}")
    return line[flag]


def _proxies(line: Parsed, flag: Flag[str]) -> tuple[IPNetwork, ...]:
    try:
        return _networks(line[flag])
    except ValueError as error:
        raise ConfigError(
            f"-{flag.name} has a network that is none ({error}); write each as '192.0.2.0/24' or as an address"
        ) from None


def _per_ip(line: Parsed) -> int | None:
    most = line[flags.CONNECTIONS_PER_IP]
    if not 0 <= most <= MOST_PER_IP:
        raise ConfigError(f"-connections-per-ip is {most}; give a number from 1 to {MOST_PER_IP:,}, or 0 for no limit")
    return most or None


def _not_negative(line: Parsed, flag: Flag[float]) -> float:
    if line[flag] < 0:
        raise ConfigError(f"-{flag.name} is negative; give a duration of 0 or more")
    return line[flag]


def _url(line: Parsed, flag: Flag[str]) -> str | None:
    return _checked_url(flag, line[flag]) if line[flag] else None


def _checked_url(flag: Flag[Any], url: str) -> str:
    if not _is_http_url(url):
        raise ConfigError(f"-{flag.name} is '{url}'; give an http or https URL")
    return url


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _on_or_off(line: Parsed, flag: Flag[str]) -> bool | None:
    if line[flag] not in {"", "on", "off"}:
        raise ConfigError(f"-{flag.name} is '{line[flag]}'; give 'on' or 'off'")
    return line[flag] == "on" if line[flag] else None


def _names(text: str) -> list[str]:
    """The items of a comma-separated list, without white space around them and without empty ones."""
    return [name for item in text.split(",") if (name := item.strip())]


def _decimal(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError
    return int(text)


def _keys(text: str) -> frozenset[NodePublic]:
    return frozenset(map(NodePublic.from_hex, _names(text)))


def _networks(text: str) -> tuple[IPNetwork, ...]:
    return tuple(ip_network(name, strict=False) for name in _names(text))


def _directories(text: str) -> tuple[Path, ...]:
    return tuple(Path(name) for name in text.split(":") if name)
