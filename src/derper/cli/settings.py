"""The `Config` of flags and environment.

Pure, except for a check whether a default file exists. An invalid value raises `ConfigError` with its flag or variable.
"""

from enum import StrEnum
from pathlib import Path
from posixpath import join, normpath
from typing import Any, TypeVar

from derper.cli import flags
from derper.cli.environment import Environment, debug_access, supervision, trusted_roots
from derper.cli.goflags import Flag, Parsed
from derper.cli.values import decimal, is_http_url, keys, names, networks
from derper.config import (
    GOOGLE,
    HTTPS_PORT,
    LETS_ENCRYPT,
    MAX_PORT,
    AcceptLimit,
    Acme,
    Admin,
    Admission,
    BootstrapName,
    CertMode,
    Config,
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
    Tcp,
    Tls,
    eab_key,
    is_dns_name,
)
from derper.errors import ConfigError
from derper.protocol.keys import MeshKey

Choice = TypeVar("Choice", bound=StrEnum)

DEV_ADDRESS = ListenAddress(None, 3340)
ROOTS_KEY_FILE = Path("/var/lib/derper/derper.key")
TAILSCALED_SOCKET = "/var/run/tailscale/tailscaled.sock"
SEND_QUEUE_DEPTH = 32
LEAST_QUEUED_BYTES = 1 << 20  # less would reduce throughput
LEAST_ROUTES = 65_536
ROUTE_BYTES = 128  # of memory for one route
ROUTE_SHARE = 32  # all routes may use 1/32 of the usable memory
MOST_PER_IP = 1_000_000


def config_from(line: Parsed, environment: Environment) -> Config:
    """Return the server's `Config`; raises `ConfigError` for an invalid value."""
    dev = line[flags.DEV]
    main = DEV_ADDRESS if dev else ListenAddress.parse(line[flags.LISTEN])
    speaks_tls = _on_or_off(line, flags.TLS)
    config = Config(
        dev=dev,
        key_file=None if dev else _key_file(line, environment),
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
        tls=_tls(line, environment, matters=speaks_tls or (speaks_tls is None and main.port == HTTPS_PORT)),
        relay=_relay(line, environment),
        admission=_admission(line),
        mesh=_mesh(line, environment),
        pages=_pages(line, environment),
        admin=_admin(line, environment),
        observation=Observation(
            count_senders=environment.is_set("TS_DERP_SENDER_CARDINALITY"),
            rtt_stats=not environment.is_set("TS_DERP_DISABLE_RTT_STATS"),
            verbose_drops=environment.read("TS_DEBUG_VERBOSE_DROPS", keys, "a list of keys in hex") or frozenset(),
        ),
        logs=_logs(line, environment),
        roots=trusted_roots(environment),
        proxies=environment.proxies(),
        supervision=supervision(environment),
        drain_timeout=_not_negative(line, flags.DRAIN_TIMEOUT),
    )
    if config.serves_tls:
        _check_tls(config.tls)
    return config


def _key_file(line: Parsed, environment: Environment) -> Path:
    if line[flags.CONFIG]:
        return Path(line[flags.CONFIG])
    if environment.is_root:
        return ROOTS_KEY_FILE
    raise ConfigError("no key file is set; set one with -c (only root has a default)")


def _tls(line: Parsed, environment: Environment, *, matters: bool) -> Tls:
    # Ignore an invalid `-certmode` when TLS is off: existing unit files contain one.
    known = matters or line[flags.CERT_MODE] in set(CertMode)
    mode = _choice(line, flags.CERT_MODE, CertMode) if known else CertMode.LETSENCRYPT
    given = line[flags.CERT_DIR]
    directory = Path(given) if given else None
    if not line.given(flags.CERT_DIR):
        directory = environment.cache("tailscale", "derper-certs")
    return Tls(
        mode=mode,
        hostname=line[flags.HOSTNAME],
        directory=directory,
        acme=_acme(line, mode),
    )


def _acme(line: Parsed, mode: CertMode) -> Acme:
    directory = line[flags.ACME_DIRECTORY]
    if directory and not (is_http_url(directory) and directory.startswith("https://")):
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
    """Check the settings that are needed only with TLS."""
    if tls.directory is None:
        raise ConfigError("no certificate directory is set; set one with -certdir")
    if not tls.hostname:
        raise ConfigError("TLS needs a host name; give it with -hostname")
    if tls.acme.ip_certificates and tls.mode is not CertMode.LETSENCRYPT:
        raise ConfigError(f"-acme-ip-certs needs -certmode=letsencrypt, and that is {tls.mode}; remove one of them")
    by_ip = tls.mode is CertMode.MANUAL or (tls.mode is CertMode.LETSENCRYPT and tls.acme.ip_certificates)
    if tls.ip is not None and not by_ip:
        raise ConfigError(f"-hostname is the IP address {tls.ip}, which needs -certmode=manual or -acme-ip-certs")
    acme = tls.acme
    if tls.mode is CertMode.GCP and not (acme.email and acme.eab_kid and (acme.eab_key or acme.eab_key_file)):
        raise ConfigError("-certmode=gcp needs -acme-email, -acme-eab-kid and -acme-eab-key")
    if acme.eab_key and acme.eab_key_file:
        raise ConfigError("-acme-eab-key and -acme-eab-key-file are both given; remove one of them")
    if tls.mode is not CertMode.MANUAL:
        if acme.binds_an_account and acme.eab_key:
            eab_key(acme.eab_key, "-acme-eab-key")
        if tls.ip is None and not is_dns_name(tls.hostname):
            raise ConfigError(
                f"-hostname is '{tls.hostname}', for which no CA issues a certificate; give a DNS name, "
                "one outside ASCII in its form with xn--"
            )


def _relay(line: Parsed, environment: Environment) -> Relay:
    depth = environment.read("TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH", decimal, "a number")
    return Relay(
        enabled=line[flags.DERP],
        shards=_shards(line, environment),
        max_queued_bytes=max_queued_bytes(line, environment),
        memory=environment.memory,
        max_routes=max(LEAST_ROUTES, environment.memory // ROUTE_SHARE // ROUTE_BYTES),
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


def _shards(line: Parsed, environment: Environment) -> int:
    if not line.given(flags.SHARDS):
        shards = environment.must_read("DERPER_SHARDS", decimal, "a number")
        source = "DERPER_SHARDS"
    else:
        shards, source = line[flags.SHARDS], "-shards"
    if shards is not None and shards < 0:
        raise ConfigError(f"{source} is {shards}; give the number of threads, or 0 for one a core")
    return shards or environment.cores


def max_queued_bytes(line: Parsed, environment: Environment) -> int:
    """Return the effective value of `-max-queued-bytes`; 0 means a quarter of the usable memory."""
    most: int = line[flags.MAX_QUEUED_BYTES]
    if most and most < LEAST_QUEUED_BYTES:
        raise ConfigError(
            f"-max-queued-bytes is {most}; give at least {LEAST_QUEUED_BYTES}, or 0 for a quarter of the memory"
        )
    return most or environment.memory // 4


def _admission(line: Parsed) -> Admission:
    sockets = line[flags.SOCKET] or (TAILSCALED_SOCKET,)
    return Admission(
        refused_app_names=frozenset(names(line[flags.DISALLOW_APP_NAMES])),
        tailscaled_sockets=tuple(map(Path, sockets)) if line[flags.VERIFY_CLIENTS] else (),
        urls=tuple(_checked_url(flags.VERIFY_CLIENT_URL, url) for url in line[flags.VERIFY_CLIENT_URL]),
        url_fail_open=line[flags.VERIFY_CLIENT_URL_FAIL_OPEN],
        allow_keys=Path(line[flags.ALLOW_KEYS]) if line[flags.ALLOW_KEYS] else None,
        any_kind=line[flags.VERIFY_ANY],
        cache=_not_negative(line, flags.VERIFY_CACHE),
        interval=_not_negative(line, flags.VERIFY_INTERVAL),
    )


def _mesh(line: Parsed, environment: Environment) -> Mesh:
    peers = tuple(MeshPeer.parse(text) for text in names(line[flags.MESH_WITH]))
    return Mesh(mesh_key_source(line, environment, _psk_file(line, environment)), peers)


def mesh_key_source(line: Parsed, environment: Environment, file: Path | None) -> MeshKey | Path | SecretsServer | None:
    """Return the source of the mesh key, for both programs: the environment, a secrets server, or else this file."""
    url = _url(line, flags.SECRETS_URL)
    if line[flags.DEV]:
        return environment.must_read("TAILSCALE_DERPER_MESH_KEY", MeshKey.from_text, "a mesh key of 64 hex digits")
    if url is None:
        return file
    given = line[flags.SECRETS_CACHE_DIR]
    cache_file = Path(given) if given else None
    if not line.given(flags.SECRETS_CACHE_DIR):
        cache_file = environment.home(".cache", "derper-secrets")
    name = normpath(join(line[flags.SECRETS_PATH_PREFIX], "meshkey"))
    return SecretsServer(url, name, cache_file, environment.proxies().of(url))


def _psk_file(line: Parsed, environment: Environment) -> Path | None:
    if line.given(flags.MESH_PSK_FILE):
        given = line[flags.MESH_PSK_FILE]
        return Path(given) if given else None
    places = (Path("/home/derp/keys/derp-mesh.key"), environment.home("keys", "derp-mesh.key"))
    return next((place for place in places if place is not None and _exists(place)), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a directory that we may not enter contains no key of ours
        return False


def _pages(line: Parsed, environment: Environment) -> Pages:
    home = line[flags.HOME]
    if home not in {"", "blank"} and not is_http_url(home):
        raise ConfigError(f"-home is '{home}'; leave it empty, or give 'blank' or an http or https URL")
    return Pages(
        home=home,
        bootstrap_names=tuple(names(line[flags.BOOTSTRAP_DNS_NAMES])),
        unpublished_bootstrap_names=tuple(map(_bootstrap, names(line[flags.UNPUBLISHED_BOOTSTRAP_DNS_NAMES]))),
        ace=line[flags.ACE],
        debug=debug_access(environment),
    )


def _logs(line: Parsed, environment: Environment) -> Logs:
    level = _choice(line, flags.LOG_LEVEL, LogLevel)
    if environment.is_set("DERP_DEBUG_LOGS") and not line.given(flags.LOG_LEVEL):
        level = LogLevel.DEBUG
    return Logs(_choice(line, flags.LOG_FORMAT, LogFormat), level)


def _choice(line: Parsed, flag: Flag[str], choices: type[Choice]) -> Choice:
    try:
        return choices(line[flag])
    except ValueError:
        raise ConfigError(f"-{flag.name} is '{line[flag]}'; choose one of {', '.join(choices)}") from None


def _admin(line: Parsed, environment: Environment) -> Admin | None:
    place, token = line[flags.ADMIN], line[flags.ADMIN_TOKEN_FILE]
    token_file = Path(token) if token else None
    if not place:
        if token_file is not None:
            raise ConfigError("-admin-token-file has no effect without -admin; set -admin or remove it")
        return None
    kind, _, path = place.partition(":")
    if kind == "unix":
        return Admin(Path(path) if path else _admin_socket(environment), None, token_file)
    address = ListenAddress.parse(place)
    if token_file is None and (address.host is None or not address.host.is_loopback):
        raise ConfigError(
            f"-admin={place} can be reached from elsewhere and needs -admin-token-file; "
            "give that, or listen on a loopback address or a unix socket"
        )
    return Admin(None, address, token_file)


def _admin_socket(environment: Environment) -> Path:
    """Return the default path, in the first of the directories that systemd creates for a service."""
    directory = environment.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
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
        return networks(line[flag])
    except ValueError as error:
        raise ConfigError(
            f"-{flag.name} has an invalid network ({error}); write each as '192.0.2.0/24' or as an address"
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
    if not is_http_url(url):
        raise ConfigError(f"-{flag.name} is '{url}'; give an http or https URL")
    return url


def _on_or_off(line: Parsed, flag: Flag[str]) -> bool | None:
    if line[flag] not in {"", "on", "off"}:
        raise ConfigError(f"-{flag.name} is '{line[flag]}'; give 'on' or 'off'")
    return line[flag] == "on" if line[flag] else None
