"""What this release does not have yet. An entry goes when its feature comes, and this file with the last one.

A command line that asks for a missing feature is refused in one sentence, so that nobody runs a server that quietly
does less than they think. A feature that is only on by default, and that a relay can do without, is a line in the log.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from derper.cli import flags
from derper.cli.goflags import Flag, Parsed
from derper.config import CertMode, Config
from derper.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Missing:
    """A feature, the flags that ask for it, which configurations want it, and how to start without it."""

    feature: str
    flags: tuple[Flag[Any], ...]
    wanted: Callable[[Config], bool]
    instead: str
    dispensable: bool = False  # wanted by default alone, it is passed over with a line in the log

    def asked_for(self, line: Parsed) -> bool:
        """Whether the command line says more than the defaults do."""
        return any(line[flag] != flag.default for flag in self.flags)


MISSING: Final = (
    Missing(
        "the plain HTTP listener beside HTTPS",
        (flags.HTTP_PORT,),
        lambda config: config.http_address is not None,
        "use -http-port=-1",
        dispensable=True,
    ),
    Missing(
        "getting certificates by ACME",
        (flags.CERT_MODE,),
        lambda config: config.serves_tls and config.tls.mode is not CertMode.MANUAL,
        "use -certmode=manual, or another port than 443 behind a proxy that speaks TLS",
    ),
    Missing(
        "bootstrap DNS",
        (flags.BOOTSTRAP_DNS_NAMES, flags.UNPUBLISHED_BOOTSTRAP_DNS_NAMES),
        lambda config: bool(config.pages.bootstrap_names or config.pages.unpublished_bootstrap_names),
        "leave -bootstrap-dns-names and -unpublished-bootstrap-dns-names out",
    ),
    Missing("the CONNECT proxy", (flags.ACE,), lambda config: config.pages.ace, "leave -ace out"),
)


def refuse_missing(config: Config, line: Parsed) -> list[Missing]:
    """Raise `ConfigError` for a missing feature that was asked for; return those that are passed over."""
    wanted = [entry for entry in MISSING if entry.wanted(config)]
    for entry in wanted:
        if not entry.dispensable or entry.asked_for(line):
            raise ConfigError(f"this release does not have {entry.feature} yet; {entry.instead}")
    return wanted
