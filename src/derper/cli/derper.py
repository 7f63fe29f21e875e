"""The program `derper`: runs a relay for a command line, or the tool that its first argument names."""

import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from derper import startup
from derper.cli import program, tools
from derper.cli.flags import DERPER_FLAGS, SETTINGS
from derper.cli.goflags import Parsed, parse_or_exit

if TYPE_CHECKING:
    from derper.cli.environment import Environment
    from derper.config import Config


def main(words: Sequence[str] | None = None) -> int:
    """Run `derper` with these arguments, or those of the command line, and return its exit code."""
    words = sys.argv[1:] if words is None else words
    if words and words[0] in tools.TOOLS:
        startup.restore_signals()
        return tools.run(words)
    if words and (words[0] == "-" or not words[0].startswith("-")):
        # Go ignores the argument and every flag after it. A mistyped tool must not start a production server.
        sys.stderr.write(tools.unknown(words[0], DERPER_FLAGS))
        return 2
    line = parse_or_exit("derper", DERPER_FLAGS, words, more=tools.described())
    return program.run("derper", "server", line, _serve)


def _serve(line: Parsed) -> int:
    startup.handle(signal.SIGHUP, signal.SIGUSR2)
    # A late import, because neither -h nor -version needs it.
    import structlog  # noqa: PLC0415

    from derper import log  # noqa: PLC0415
    from derper.cli import ineffective  # noqa: PLC0415
    from derper.cli.environment import Environment  # noqa: PLC0415

    environment = Environment.of_this_process()
    whole, config = _config(line, environment)
    log.configure(logs=config.logs)
    for warning in (*environment.ignored.values(), *ineffective.warnings(whole, config, environment.environ)):
        structlog.get_logger().warning(warning)
    if line.rest:
        structlog.get_logger().warning(
            "arguments that are not flags are ignored; a tool's name must come first", words=" ".join(line.rest)
        )
    # Imported after the check of the settings, because this module loads the data plane.
    from derper.server.app import run  # noqa: PLC0415

    return run(config, lambda: _config(line, Environment.of_this_process())[1])


def _config(line: Parsed, environment: "Environment") -> "tuple[Parsed, Config]":
    """Merge the command line over the current settings file; return the result and its configuration."""
    from derper.cli import settingsfile  # noqa: PLC0415
    from derper.cli.settings import config_from  # noqa: PLC0415

    whole = settingsfile.under(line, SETTINGS, DERPER_FLAGS)
    return whole, config_from(whole, environment)
