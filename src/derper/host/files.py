"""The operator's files: read and written with clear errors, and written whole or not at all.

Blocking: for start-up and threads only. Every failure raises `ConfigError`, because paths are the operator's settings.
"""

import errno
import os
import tempfile
from pathlib import Path

from derper.errors import ConfigError

MAX_BYTES = 1 << 20  # keys and certificate chains are a thousand times smaller; rejects a device or a log file


def read(path: Path, what: str, *, most: int = MAX_BYTES) -> bytes:
    """Return a file's bytes, at most `most`; `what` names it in errors, such as "the mesh key file"."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(
            f"{what} {path} cannot be read ({error.strerror}); check that it exists and that this user may read it"
        ) from error
    if len(data) > most:
        raise ConfigError(f"{what} {path} has more than {most:,} bytes; check that the path is right")
    return data


def write(path: Path, data: bytes, what: str, mode: int = 0o600) -> None:
    """Write a file atomically, and create its directories; after a power failure it is whole or absent."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be written ({error.strerror}); {_remedy(error)}") from error


def rename(path: Path, to: Path, what: str) -> None:
    """Rename a file within its directory, replacing a file of that name."""
    try:
        path.replace(to)
        _sync_directory(to.parent)
    except OSError as error:
        raise ConfigError(f"{what} {to} cannot be written ({error.strerror}); {_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    """Return the remedy for a failed write."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return "free some space there"
    return "use a path that this user may write to"


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
