"""Flags that have no effect together with others: one table of rules, and the warnings at start.

The server starts with such flags, as Go's does. Pure: takes a command line merged over its settings file, and its
`Config`; returns sentences. A flag counts as set if it is given and differs from its default.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from derper.cli import flags
from derper.cli.goflags import Flag, Parsed
from derper.config import LETS_ENCRYPT, CertMode, Config

MESH_KEY_VARIABLE: Final = "TAILSCALE_DERPER_MESH_KEY"
_OFF: Final = -1  # the port of a disabled listener


class Rule(NamedTuple):
    """Flags that have no effect while a condition holds."""

    flags: tuple[Flag[Any], ...]
    holds: Callable[[Config, Parsed], bool]
    reason: str  # including the remedy


_EAB: Final = (flags.ACME_EAB_KID, flags.ACME_EAB_KEY, flags.ACME_EAB_KEY_FILE)
_ACME: Final = (
    flags.ACME_EMAIL, *_EAB, flags.ACME_DIRECTORY, flags.ACME_DIRECTORY_CA, flags.ACME_DNS_HOOK,
)  # fmt: skip
_PLAIN: Final = "the main listener is plain HTTP; -tls=on makes it speak TLS"

RULES: Final = (
    Rule(
        (flags.LISTEN, flags.CONFIG, flags.MESH_PSK_FILE, flags.SECRETS_URL),
        lambda config, _: config.dev,
        f"-dev listens on :3340 with a new key and reads the mesh key from {MESH_KEY_VARIABLE}; remove one of them",
    ),
    Rule(
        (flags.CERT_MODE,),
        lambda config, _: not config.serves_tls,
        f"{_PLAIN}, with one of the modes {', '.join(CertMode)}",
    ),
    Rule(
        (*_ACME, flags.ACME_IP_CERTS, flags.CERT_DIR, flags.HTTP_PORT, flags.ACE,
         flags.ACCEPT_CONNECTION_LIMIT, flags.ACCEPT_CONNECTION_BURST),
        lambda config, _: not config.serves_tls,
        _PLAIN,
    ),
    Rule(
        _ACME,
        lambda config, _: config.serves_tls and config.tls.mode is CertMode.MANUAL,
        "-certmode=manual orders no certificates; use -certmode=letsencrypt or gcp",
    ),
    Rule(
        _EAB,
        lambda config, _: _orders(config) and config.tls.acme.directory == LETS_ENCRYPT,
        "Let's Encrypt has no external accounts; name another CA with -acme-directory",
    ),
    Rule(
        (flags.ACME_EAB_KEY, flags.ACME_EAB_KEY_FILE),
        lambda config, line: (
            _orders(config) and config.tls.acme.directory != LETS_ENCRYPT and not line[flags.ACME_EAB_KID]
        ),
        "the key's ID is missing; give -acme-eab-kid",
    ),
    Rule(
        (flags.ACCEPT_CONNECTION_BURST,),
        lambda config, _: config.serves_tls and not config.relay.accept.is_limit,
        "no limit of new connections is set; add -accept-connection-limit",
    ),
    Rule(
        (flags.STUN_PORT, flags.STUN_ANY),
        lambda config, _: config.listeners.stun_port is None,
        "STUN is off; leave out -stun=false and a negative -stun-port",
    ),
    Rule(
        (flags.ADMIN_TOKEN_FILE,),
        lambda config, _: config.admin is not None and config.admin.socket is not None,
        "-admin is a unix socket, which needs no token; leave it out",
    ),
    Rule(
        (flags.SOCKET,),
        lambda config, _: not config.admission.tailscaled_sockets,
        "tailscaled is not asked about clients; give -verify-clients",
    ),
    Rule(
        (flags.VERIFY_CLIENT_URL_FAIL_OPEN,),
        lambda config, _: not config.admission.urls,
        "no controller is asked about clients; give -verify-client-url",
    ),
    Rule(
        (flags.VERIFY_ANY,),
        lambda config, _: _kinds_of_checks(config) < 2,  # noqa: PLR2004  fewer than two
        "there are not two kinds of check; give another of -allow-keys, -verify-clients and -verify-client-url",
    ),
    Rule(
        (flags.VERIFY_CACHE, flags.VERIFY_INTERVAL),
        lambda config, _: not (config.admission.urls or config.admission.tailscaled_sockets),
        "nothing is asked about clients; give -verify-clients or -verify-client-url",
    ),
    Rule(
        (flags.ANNOUNCE_LIMITS,),
        lambda config, _: config.relay.enabled and config.relay.rate_file is None,
        "there are no rate limits; name their file with -rate-config",
    ),
    Rule(
        (flags.SECRETS_PATH_PREFIX, flags.SECRETS_CACHE_DIR),
        lambda _, line: not line[flags.SECRETS_URL],
        "no secrets server is asked for the mesh key; give -secrets-url",
    ),
    Rule(
        (flags.MESH_PSK_FILE,),
        lambda config, line: not config.dev and bool(line[flags.SECRETS_URL]),
        "the mesh key comes from -secrets-url; remove one of them",
    ),
    Rule(
        (flags.VERIFY_CLIENTS, flags.VERIFY_CLIENT_URL, flags.ALLOW_KEYS, flags.DISALLOW_APP_NAMES, flags.RATE_CONFIG,
         flags.ANNOUNCE_LIMITS),
        lambda config, _: not config.relay.enabled,
        "-derp=false admits no clients; remove one of them",
    ),
)  # fmt: skip


def warnings(line: Parsed, config: Config, environ: Mapping[str, str]) -> Iterator[str]:
    """Return a sentence for each rule that applies, with the flags that are set and have no effect."""
    for rule in RULES:
        if (found := [f"-{flag.name}" for flag in rule.flags if _is_set(line, flag)]) and rule.holds(config, line):
            yield f"{_listed(found)} no effect: {rule.reason}"
    if environ.get(MESH_KEY_VARIABLE) and not config.dev:
        reason = "it is read with -dev only; name a file with -mesh-psk-file"
        yield f"the environment variable {MESH_KEY_VARIABLE} has no effect: {reason}"


def _is_set(line: Parsed, flag: Flag[Any]) -> bool:
    if flag is flags.CERT_MODE:  # its default enables TLS as any other mode does
        return line.given(flag)
    switched_off = line[flag] == _OFF or (flag is flags.VERIFY_INTERVAL and line[flag] == 0)
    return line.given(flag) and line[flag] != flag.default and not switched_off


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last} have" if others else f"{last} has"


def _orders(config: Config) -> bool:
    return config.serves_tls and config.tls.mode is not CertMode.MANUAL


def _kinds_of_checks(config: Config) -> int:
    admission = config.admission
    return sum(map(bool, (admission.allow_keys, admission.tailscaled_sockets, admission.urls)))
