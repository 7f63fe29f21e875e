"""The shared part of all tools: arguments, errors, tables and JSON."""

import argparse
import json
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console

from derper import log
from derper.credentials.keys import parse_key_file
from derper.errors import ConfigError, DerperError, ProtocolError
from derper.host import files, signals
from derper.protocol.keys import NodePrivate

_WIDE = 160  # columns without a terminal, so that lines stay whole for other programs


def parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every tool."""
    made = argparse.ArgumentParser(f"derper {name}", description=description, allow_abbrev=False)
    made.add_argument("--json", action="store_true", help="print JSON for a script")
    return made


def add_place(made: argparse.ArgumentParser, default: str = "unix") -> None:
    """Add the option for the running server's address."""
    made.add_argument("--admin", default=default, metavar="PLACE", help="the server's -admin: unix[:PATH] or host:port")
    unset = None if default == "unix" else default
    made.add_argument(
        "--token-file", default=unset, metavar="FILE", help="the server's -admin-token-file, for host:port"
    )


def options_after_the_action() -> argparse.ArgumentParser:
    """Return a parent parser whose options may follow an action, and override those before it."""
    made = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    made.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON for a script")
    add_place(made, default=argparse.SUPPRESS)
    return made


def console() -> Console:
    """Return the console for tables: standard output, in colours if the terminal supports them."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)


def print_remark(text: str) -> None:
    """Print a remark on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def show_json(value: object) -> None:
    """Print a result as JSON for a script."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()


def finish(name: str, work: Coroutine[Any, Any, int]) -> int:
    """Run a tool and return its exit code: an error is printed as one sentence, and Ctrl-C is an ordinary end."""
    try:
        return signals.run(work)
    except (DerperError, OSError) as error:
        print_remark(f"derper {name}: {log.in_one_line(error)}")
        return 1
    except KeyboardInterrupt:
        return 130  # the shells' code for SIGINT


def key_from(path: str) -> NodePrivate:
    """Return the key in a key file."""
    try:
        return parse_key_file(files.read(Path(path), "the key file"))
    except ProtocolError as error:
        raise ConfigError(f"the key file {path} holds no private key ({error})") from error
