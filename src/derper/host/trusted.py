"""The configured trusted roots. `roots` reads them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TrustedRoots:
    """The roots for outgoing TLS; without a file and directories, the system's."""

    file: Path | None
    directories: tuple[Path, ...]
