"""The program `derpprobe`: probes all relays of a DERP map.

With `-once` the exit code is 1 if a probe failed.
"""

import asyncio
import sys
from collections.abc import Sequence

from derper.cli import probing, program
from derper.cli.goflags import Parsed, parse_or_exit


def main(words: Sequence[str] | None = None) -> int:
    """Run `derpprobe` with these arguments, or those of the command line, and return its exit code."""
    line = parse_or_exit("derpprobe", probing.DERPPROBE_FLAGS, sys.argv[1:] if words is None else words)
    return program.run("derpprobe", "prober", line, _probe)


def _probe(line: Parsed) -> int:
    # A late import, because neither -h nor -version needs it.
    import structlog  # noqa: PLC0415

    from derper.cli.environment import Environment  # noqa: PLC0415

    environment = Environment.of_this_process()
    config = probing.config_from(line, environment)
    for warning in environment.ignored.values():
        structlog.get_logger().warning(warning)
    # Imported after the check of the settings, which does not need these modules.
    from derper.host import signals  # noqa: PLC0415
    from derper.prober import app  # noqa: PLC0415
    from derper.prober.clients import Keys  # noqa: PLC0415

    keys = Keys.load(config)
    if line[probing.PROBE_KEYS]:
        return signals.run(app.print_keys(config, keys))
    if line[probing.ONCE]:
        return signals.run(app.run_once(config, keys, as_json=line[probing.JSON]))
    return asyncio.run(app.serve(config, keys))
