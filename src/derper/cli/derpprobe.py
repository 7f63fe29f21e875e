"""The program `derpprobe`: a command line in, probes of all relays of a DERP map, an exit code out.

Exit codes: 0 for help, version, an ordered stop, and for `-once` when all is good; 1 when something is bad or when the
prober cannot run (one line says why); 2 for a command line that cannot be read.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import structlog
from structlog.typing import FilteringBoundLogger

from derper import log
from derper._version import version
from derper.cli import probing
from derper.cli.flags import VERSION
from derper.cli.goflags import Parsed, parse_or_exit
from derper.cli.settings import Surroundings
from derper.errors import DerperError

_log: FilteringBoundLogger = structlog.get_logger()


def main(words: Sequence[str] | None = None) -> int:
    """Run `derpprobe` with these words, or those of the command line, and return its exit code."""
    line = parse_or_exit("derpprobe", probing.DERPPROBE_FLAGS, sys.argv[1:] if words is None else words)
    if line[VERSION]:
        sys.stdout.write(f"derpprobe {version()}\n")
        return 0
    # Until the prober's loop takes the signals over, and again after it.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    log.configure()
    try:
        return _run(line)
    except (DerperError, OSError) as error:
        _log.error("the prober cannot run", reason=log.in_one_line(error))
        return 1


def _run(line: Parsed) -> int:
    config = probing.config_from(line, Surroundings.of_this_process())
    # Late, because it loads what neither -h nor a bad setting needs.
    from derper.prober import app  # noqa: PLC0415
    from derper.prober.clients import Keys  # noqa: PLC0415

    keys = Keys.load(config)
    if line[probing.PROBE_KEYS]:
        return asyncio.run(app.print_keys(config, keys))
    if line[probing.ONCE]:
        return asyncio.run(app.run_once(config, keys, as_json=line[probing.JSON]))
    return asyncio.run(app.serve(config, keys))


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
