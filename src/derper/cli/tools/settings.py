"""`derper settings`: the settings that a command line results in, and the source of each value. Nothing listens.

It accepts the server's own flags. A default that depends on the machine or on other flags is shown resolved. For
secrets only the source is shown.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.table import Table
from rich.text import Text

from derper import log
from derper.cli import flags, ineffective, settingsfile
from derper.cli.environment import Environment
from derper.cli.flags import ACME_EAB_KEY, DERPER_FLAGS, SETTINGS, VERSION
from derper.cli.goflags import Flag, Parsed, boolean, parse_or_exit
from derper.cli.settings import TAILSCALED_SOCKET, config_from
from derper.cli.tools import common
from derper.config import CertMode, Config, SecretsServer
from derper.errors import DerperError
from derper.host.proxies import VARIABLES as PROXY_VARIABLES
from derper.redaction import redacted

JSON = boolean("json", "print JSON for a script")

_VARIABLES: Final = (
    *PROXY_VARIABLES,
    *map(str.lower, PROXY_VARIABLES),
    "DERPER_SHARDS",
    "DERP_DEBUG_LOGS",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TAILSCALE_DERPER_MESH_KEY",
    "TS_ALLOW_DEBUG_IP",
    "TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH",
    "TS_DEBUG_KEY_PATH",
    "TS_DEBUG_TRUSTED_CIDRS",
    "TS_DEBUG_VERBOSE_DROPS",
    "TS_DERP_DISABLE_RTT_STATS",
    "TS_DERP_SENDER_CARDINALITY",
)
_OVERRIDES: Final = {flags.SHARDS.name: "DERPER_SHARDS", flags.LOG_LEVEL.name: "DERP_DEBUG_LOGS"}
"""Variables that are used if a flag is not given."""
_SECRETS: Final = (ACME_EAB_KEY.name, "TAILSCALE_DERPER_MESH_KEY")


class Setting(NamedTuple):
    """One line."""

    name: str
    value: str
    source: str


def main(words: Sequence[str]) -> int:
    """Run with the arguments after the tool's name."""
    line = parse_or_exit("derper settings", (*DERPER_FLAGS, JSON), words)
    try:
        environment = Environment.of_this_process()
        whole = settingsfile.under(line, SETTINGS, DERPER_FLAGS)
        config = config_from(whole, environment)  # an invalid setting raises the server's own error
        for warning in ineffective.warnings(whole, config, environment.environ):
            common.print_remark(f"derper settings: {warning}")
        found = [*_flags(line, whole, _resolved(config, whole), environment), *_environment(environment)]
    except (DerperError, OSError) as error:
        common.print_remark(f"derper settings: {log.in_one_line(error)}")
        return 1
    if line[JSON]:
        common.show_json([setting._asdict() for setting in found])
    else:
        table = Table("Setting", "Value", "From", box=None, pad_edge=False)
        for setting in found:
            table.add_row(*(Text(text, style="" if setting.source != "default" else "dim") for text in setting))
        common.console().print(table)
    return 0


def _flags(line: Parsed, whole: Parsed, resolved: dict[str, str], environment: Environment) -> Iterator[Setting]:
    for flag in sorted(DERPER_FLAGS, key=lambda flag: flag.name):
        if flag.name == VERSION.name:
            continue
        given = _text(flag, whole[flag])
        value = resolved.get(flag.name, given)
        if line.given(flag):
            source = "command line"
        elif whole.given(flag):
            source = line[SETTINGS]
        else:
            variable = _OVERRIDES.get(flag.name, "")
            source = variable if value != given and environment.environ.get(variable) else "default"
        yield Setting(f"-{flag.name}", _shown(flag.name, value, source), source)


def _resolved(config: Config, whole: Parsed) -> dict[str, str]:
    """Return the resolved values of flags whose default depends on the machine, on variables or on other flags."""
    key_source, tls = config.mesh.key_source, config.tls
    issues = config.serves_tls and tls.mode is not CertMode.MANUAL
    sockets = whole[flags.SOCKET] or (TAILSCALED_SOCKET,)
    found: dict[str, object] = {
        flags.LISTEN.name: config.listeners.main,
        flags.CONFIG.name: config.key_file,
        flags.SHARDS.name: config.relay.shards,
        flags.MAX_QUEUED_BYTES.name: config.relay.max_queued_bytes,
        flags.SOCKET.name: ",".join(sockets),
        flags.TLS.name: "on" if config.serves_tls else "off",
        flags.CERT_DIR.name: tls.directory,
        flags.ACME_DIRECTORY.name: tls.acme.directory if issues else whole[flags.ACME_DIRECTORY],
        flags.LOG_LEVEL.name: config.logs.level,
    }
    if isinstance(key_source, SecretsServer):
        found[flags.SECRETS_CACHE_DIR.name] = key_source.cache_file
    elif isinstance(key_source, Path):
        found[flags.MESH_PSK_FILE.name] = key_source
    if config.admin is not None and config.admin.socket is not None:
        found[flags.ADMIN.name] = f"unix:{config.admin.socket}"
    return {name: "" if value is None else str(value) for name, value in found.items()}


def _environment(environment: Environment) -> Iterator[Setting]:
    for name in _VARIABLES:
        if value := environment.environ.get(name):
            yield Setting(name, _shown(name, value, "environment"), "environment")


def _text(flag: Flag[Any], value: object) -> str:
    return value if isinstance(value, str) else str(flag.kind.show(value))


def _shown(name: str, value: str, source: str) -> str:
    if name in _SECRETS and value:
        return f"set (from {source})"
    return redacted(value)
