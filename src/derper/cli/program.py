"""What the programs share: flags in, a version or a run, an exit code out.

Exit codes: 0 for help, version and an ordered stop, 1 for what cannot run (one line says why), 2 for a command line
that cannot be read; a run may end with others.
"""

import sys
from collections.abc import Callable

from derper import startup
from derper._version import version
from derper.cli.flags import VERSION
from derper.cli.goflags import Parsed
from derper.errors import DerperError


def run(name: str, what: str, line: Parsed, work: Callable[[Parsed], int]) -> int:
    """Do what the command line says.

    Args:
        name: the program's.
        what: it is, for its operator.
        line: the flags.
        work: the run; an error of ours or of the system ends it with one line.
    """
    if line[VERSION]:
        sys.stdout.write(f"{name} {version()}\n")
        return 0
    startup.begin()
    # Late, because neither -version nor -h logs.
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
