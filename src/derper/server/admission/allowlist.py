"""The file of `-allow-keys`: one node key per line, `#` before a comment (docs/admission.md).

The file is read whole or not at all. If it is missing or has an invalid line, the list stays as it was, and an error is
logged: an unreadable file must not disconnect every client.
"""

import asyncio
import time
from pathlib import Path
from typing import Final

from derper.errors import ConfigError, ProtocolError
from derper.host import files
from derper.host.serialized import Serialized
from derper.protocol.keys import NodePublic
from derper.server.admission.answers import KNOWN, Answer, Cause, ClientIdentity, refused

MAX_BYTES: Final = 16 << 20  # about 200,000 keys
LOOK_AGAIN_SECONDS: Final = 0.5
"""Interval between two checks of the file; it is read after two checks in a row found it unchanged."""

MOST_LOOKS: Final = 20
"""A reload fails after this number of checks that each found the file changed."""

_WHAT: Final = "the allowed keys"
_Signature = tuple[int, int, int, int]


class AllowList:
    """The keys in force."""

    def __init__(self, path: Path) -> None:
        """Read the file; raises `ConfigError` if that fails."""
        self._path = path
        self._signature = _signature_of(path)
        self.keys = load(path)
        # Two concurrent reloads could finish in the wrong order, so the older contents would win.
        self._reload_serialized = Serialized(self._reload)

    async def ask(self, client: ClientIdentity) -> Answer:
        """Return whether a key is on the list."""
        if client.key in self.keys:
            return KNOWN
        reason = f"peer {client.key} not in {self._path}"
        return refused(Cause.ALLOW_KEYS, reason, "its key is not on the relay's list")

    async def close(self) -> None:
        """No-op: nothing is open."""

    async def reload(self) -> frozenset[NodePublic]:
        """Read the file again; return the keys that are no longer on the list.

        A file that was written a moment ago may contain half of the new list, and reading that would disconnect the
        clients of the other half. So the file is read after it has been unchanged for `LOOK_AGAIN_SECONDS`.

        Raises:
            ConfigError: The file cannot be read or keeps changing; the list stays.
        """
        return await self._reload_serialized()

    async def _reload(self) -> frozenset[NodePublic]:
        for _ in range(MOST_LOOKS):
            signature = await asyncio.to_thread(_signature_of, self._path)
            if _is_recent(signature):
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
                if await asyncio.to_thread(_signature_of, self._path) != signature:
                    continue
            try:
                keys = await asyncio.to_thread(load, self._path)
            except ConfigError:
                self._signature = signature  # log a bad file once
                raise
            if await asyncio.to_thread(_signature_of, self._path) == signature:
                self._signature = signature
                removed, self.keys = self.keys - keys, keys
                return removed
        raise ConfigError(f"{_WHAT} {self._path} are still being written; replace the file by renaming a complete one")

    async def changed(self) -> None:
        """Return when the file differs from the last one read and its writer has finished."""
        before = self._signature
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            now = await asyncio.to_thread(_signature_of, self._path)
            if now == before != self._signature:
                return
            before = now


def load(path: Path) -> frozenset[NodePublic]:
    """Return the keys in a file.

    Raises:
        ConfigError: The file cannot be read, or a line is neither a key nor a comment.
    """
    keys = set()
    for number, line in enumerate(files.read(path, _WHAT, most=MAX_BYTES).splitlines(), 1):
        if text := line.partition(b"#")[0].strip():
            try:
                keys.add(NodePublic.from_text(text.decode("utf-8", "replace")))
            except ProtocolError as error:
                raise ConfigError(
                    f"{_WHAT} {path} have a line {number} that is invalid ({error}); write 'nodekey:' and 64 hex digits"
                ) from error
    return frozenset(keys)


def _is_recent(signature: _Signature) -> bool:
    """Return whether a file was written so recently that its writer may not have finished."""
    return abs(time.time() - signature[3] / 1e9) < LOOK_AGAIN_SECONDS


def _signature_of(path: Path) -> _Signature:
    """Return values that change when the file is changed or replaced; all zeros if it cannot be accessed."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0, 0
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
