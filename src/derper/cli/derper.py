"""The program `derper`: a command line in, a running relay, an exit code out. Or a tool, whose name stands in front."""

import sys
from collections.abc import Sequence

import structlog
from structlog.typing import FilteringBoundLogger

from derper import log
from derper.cli import program, settingsfile, tools
from derper.cli.flags import DERPER_FLAGS, SETTINGS
from derper.cli.goflags import Parsed, parse_or_exit
from derper.cli.settings import config_from
from derper.cli.surroundings import Surroundings
from derper.config import Config

_log: FilteringBoundLogger = structlog.get_logger()


def main(words: Sequence[str] | None = None) -> int:
    """Run `derper` with these words, or those of the command line, and return its exit code."""
    words = sys.argv[1:] if words is None else words
    if words and words[0] in tools.TOOLS:
        return tools.run(words)
    line = parse_or_exit("derper", DERPER_FLAGS, words, more=tools.described())
    return program.run("derper", "server", line, _serve)


def _serve(line: Parsed) -> int:
    environment = Surroundings.of_this_process()
    config = _config(line, environment)
    log.configure(logs=config.logs)
    for warning in environment.ignored.values():
        _log.warning(warning)
    if line.rest:
        _log.warning("words that are no flags are ignored; a tool's name comes first", words=" ".join(line.rest))
    # Late, because it loads the data plane, which neither -h nor a bad setting needs.
    from derper.server.app import run  # noqa: PLC0415

    return run(config, lambda: _config(line, Surroundings.of_this_process()))


def _config(line: Parsed, environment: Surroundings) -> Config:
    """Put the command line over the settings file as it is now."""
    return config_from(settingsfile.under(line, SETTINGS, DERPER_FLAGS), environment)
