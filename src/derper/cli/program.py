"""The shared part of the programs: flags in, a version or a run, an exit code out.

Exit codes: 0 for help, version and a requested stop; 1 for a failed run, with one line for the reason; 2 for an invalid
command line. A run may return others.
"""

import sys
from collections.abc import Callable

from derper import startup
from derper._version import version
from derper.cli.flags import VERSION
from derper.cli.goflags import Parsed
from derper.errors import DerperError


def run(name: str, what: str, line: Parsed, work: Callable[[Parsed], int]) -> int:
    """Run the program for its command line; return the exit code.

    Args:
        name: The program's name.
        what: Its description for the operator.
        line: The flags.
        work: The run; an error of ours or of the system ends it with one line.
    """
    if line[VERSION]:
        sys.stdout.write(f"{name} {version()}\n")
        return 0
    startup.begin()
    # A late import, because neither -version nor -h logs.
    import structlog  # noqa: PLC0415

    from derper import log  # noqa: PLC0415

    log.configure()
    log.log_uncaught_errors()
    try:
        return work(line)
    except (DerperError, OSError) as error:
        structlog.get_logger().error(f"the {what} cannot run", reason=log.in_one_line(error))
        return 1
    finally:
        log.flush()
