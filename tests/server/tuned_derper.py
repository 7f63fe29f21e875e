"""`derper` with other timeouts, and with hooks for tests.

    python tuned_derper.py '{"setup_timeout": 1.0}' flags...

The first argument sets defaults of the data plane's settings, in JSON, and also
    "bug_for": a public key in hex; its login has a bug.
SIGUSR1 makes the first shard fail as a bug would. SIGUSR2 writes a line `counted {...}` to the log: counters, drops,
table_counts, and the shard of each key's last connection. asyncio logs slow callbacks. All else is the program's own.
"""

import asyncio
import functools
import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from slowcallbacks import watch_loop

from derper import log
from derper.cli.derper import main
from derper.dataplane import DataPlane, Event, Frame, Head, PlaneSettings, Switched
from derper.protocol.reader import RawFrame, whole_frame
from derper.server import app
from derper.server.login import LoggedIn, Login

_SHARD_SHIFT = 55  # a connection's name: shard, generation (23 bits), slot (32 bits)
_KEY_LEN = 32


class TunedPlane(DataPlane):
    """A data plane that handles the signals and stores the shard of each key."""

    _keys: dict[int, str]
    _shards: dict[str, int]

    def start(self, on_event: Callable[[Event], None]) -> None:
        self._keys, self._shards = {}, {}
        watch_loop()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self.panic, 0)
        loop.add_signal_handler(signal.SIGUSR2, self._tell)

        def note(event: Event) -> None:
            if isinstance(event, Frame):
                self._keys[event.conn] = event.payload[:_KEY_LEN].hex()
            elif isinstance(event, Head) and (login := whole_frame(event.ahead)) is not None:
                self._keys[event.conn] = login.payload[:_KEY_LEN].hex()
            elif isinstance(event, Switched):
                self._shards[self._keys.pop(event.conn, "")] = event.member >> _SHARD_SHIFT
            on_event(event)

        super().start(note)

    def _tell(self) -> None:
        drops = {f"{drops.reason} {drops.kind}": drops.packets for drops in self.drops()}
        told = {"drops": drops, "shards": self._shards}
        log.verbatim("counted " + json.dumps(self.counters() | self.table_counts()._asdict() | told))


def login_with_a_bug_for(key: str) -> type[Login]:
    """Return a login with a bug for one key."""

    class FaultyLogin(Login):
        def open(self, frame: RawFrame) -> LoggedIn:
            admitted = super().open(frame)
            if admitted.key.hex() == key:
                raise RuntimeError("a bug, as a test wants it")
            return admitted

    return FaultyLogin


def tune(settings: dict[str, Any]) -> None:
    """Replace the server's parts with the tuned ones."""
    if (key := settings.pop("bug_for", None)) is not None:
        vars(app)["Login"] = login_with_a_bug_for(key)
    vars(app)["DataPlane"] = TunedPlane
    vars(app)["PlaneSettings"] = functools.partial(PlaneSettings, **settings)


if __name__ == "__main__":
    tune(json.loads(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
