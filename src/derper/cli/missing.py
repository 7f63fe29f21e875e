"""What this release does not have yet. An entry goes when its feature comes, and this file with the last one.

A command line that asks for a missing feature is refused in one sentence, so that nobody runs a server that quietly
does less than they think.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from derper.cli import flags
from derper.cli.goflags import Flag
from derper.config import CertMode, Config
from derper.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Missing:
    """A feature, the flags that ask for it, which configurations want it, and how to start without it."""

    feature: str
    flags: tuple[Flag[Any], ...]
    wanted: Callable[[Config], bool]
    instead: str


MISSING: Final = (
    Missing(
        "getting certificates by ACME",
        (flags.CERT_MODE,),
        lambda config: config.serves_tls and config.tls.mode is not CertMode.MANUAL,
        "use -certmode=manual, or another port than 443 behind a proxy that speaks TLS",
    ),
)


def refuse_missing(config: Config) -> None:
    """Raise `ConfigError` for a missing feature that was asked for."""
    for entry in MISSING:
        if entry.wanted(config):
            raise ConfigError(f"this release does not have {entry.feature} yet; {entry.instead}")
