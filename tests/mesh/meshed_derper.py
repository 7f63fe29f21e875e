"""`derper` with other timeouts and sizes, for tests of the mesh.

    python meshed_derper.py '{"plane": {"link_write_timeout": 1.0}, "mesh": {"RETRY_SECONDS": 0.2}}' flags...

The first argument, in JSON: `plane` sets defaults of the data plane's settings, `mesh` constants of
`derper.server.mesh`. SIGUSR2 writes a line `counted {...}` to the log: counters, drops, connected keys. All else is the
program's own.
"""

import asyncio
import functools
import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from derper import log
from derper.cli.derper import main
from derper.dataplane import DataPlane, Event, PlaneSettings
from derper.server import app, mesh


class CountedPlane(DataPlane):
    """A data plane that logs its counters on a signal."""

    def start(self, on_event: Callable[[Event], None]) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, self._tell)
        super().start(on_event)

    def _tell(self) -> None:
        drops = {f"{drops.reason} {drops.kind}": drops.packets for drops in self.drops()}
        log.verbatim("counted " + json.dumps(self.counters() | self.table_counts()._asdict() | {"drops": drops}))


def tune(settings: dict[str, dict[str, Any]]) -> None:
    vars(app)["DataPlane"] = CountedPlane
    vars(app)["PlaneSettings"] = functools.partial(PlaneSettings, **settings.get("plane", {}))
    for name, value in settings.get("mesh", {}).items():
        if name not in vars(mesh):
            raise KeyError(name)
        vars(mesh)[name] = value


if __name__ == "__main__":
    tune(json.loads(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
