"""The program `derper`: a command line in, a running relay, an exit code out. A tool's name in front runs that instead.

Exit codes: 0 for help, version and an ordered stop, 1 for a server that cannot run (one line says why), 2 for a command
line that cannot be read.
"""

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import structlog
from structlog.typing import FilteringBoundLogger

from derper import log
from derper._version import version
from derper.cli import settingsfile, tools
from derper.cli.flags import DERPER_FLAGS, SETTINGS, VERSION
from derper.cli.goflags import Parsed, parse_or_exit
from derper.cli.settings import Surroundings, config_from
from derper.config import Config
from derper.errors import DerperError

_log: FilteringBoundLogger = structlog.get_logger()


def main(words: Sequence[str] | None = None) -> int:
    """Run `derper` with these words, or those of the command line, and return its exit code."""
    words = sys.argv[1:] if words is None else words
    if words and words[0] in tools.TOOLS:
        return tools.run(words)
    line = parse_or_exit("derper", DERPER_FLAGS, words, more=tools.described())
    if line[VERSION]:
        sys.stdout.write(f"derper {version()}\n")
        return 0
    # Until the server's loop takes the signals over, and again after it.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    log.configure()
    try:
        config = _config(line)
        log.configure(logs=config.logs)
        if line.rest:
            _log.warning("words that are no flags are ignored; a tool's name comes first", words=" ".join(line.rest))
        # Late, because it loads the data plane, which neither -h nor a bad setting needs.
        from derper.server.app import run  # noqa: PLC0415

        return run(config, lambda: _config(line))
    except (DerperError, OSError) as error:
        _log.error("the server cannot run", reason=log.in_one_line(error))
        return 1


def _config(line: Parsed) -> Config:
    """Put the command line over the settings file as it is now."""
    return config_from(settingsfile.under(line, SETTINGS, DERPER_FLAGS), Surroundings.of_this_process())


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
