"""The program `derpprobe`: a command line in, probes of all relays of a DERP map, an exit code out.

With `-once` that is 1 when something is bad.
"""

import asyncio
import sys
from collections.abc import Sequence

import structlog
from structlog.typing import FilteringBoundLogger

from derper.cli import probing, program
from derper.cli.goflags import Parsed, parse_or_exit
from derper.cli.surroundings import Surroundings

_log: FilteringBoundLogger = structlog.get_logger()


def main(words: Sequence[str] | None = None) -> int:
    """Run `derpprobe` with these words, or those of the command line, and return its exit code."""
    line = parse_or_exit("derpprobe", probing.DERPPROBE_FLAGS, sys.argv[1:] if words is None else words)
    return program.run("derpprobe", "prober", line, _probe)


def _probe(line: Parsed) -> int:
    environment = Surroundings.of_this_process()
    config = probing.config_from(line, environment)
    for warning in environment.ignored.values():
        _log.warning(warning)
    # Late, because it loads what neither -h nor a bad setting needs.
    from derper.prober import app  # noqa: PLC0415
    from derper.prober.clients import Keys  # noqa: PLC0415

    keys = Keys.load(config)
    if line[probing.PROBE_KEYS]:
        return asyncio.run(app.print_keys(config, keys))
    if line[probing.ONCE]:
        return asyncio.run(app.run_once(config, keys, as_json=line[probing.JSON]))
    return asyncio.run(app.serve(config, keys))
