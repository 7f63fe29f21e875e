"""`derper map`: this server's entry for a DERP map, ready to paste.

It accepts the server's own flags, so the server's command line with `map` before the flags describes the same server.
"""

import sys
from collections.abc import Sequence
from typing import Any, Final

from rich.text import Text

from derper import log
from derper.cli import settingsfile
from derper.cli.environment import Environment
from derper.cli.flags import DERPER_FLAGS, SETTINGS
from derper.cli.goflags import Flag, Parsed, boolean, integer, parse_or_exit, string
from derper.cli.settings import config_from
from derper.cli.tools import common
from derper.config import Config
from derper.errors import ConfigError, DerperError
from derper.protocol.derpmap import Region
from derper.tools import mapentry

JSON = boolean("json", "print JSON: the map that a client reads")
FOR = string("for", "", "print one form alone, to be redirected: `tailscale` or headscale")
REGION_ID = integer("region-id", 900, "`number` of the region; 900 to 999 are for such as this")
REGION_CODE = string("region-code", "mine", "short `name` of the region")
REGION_NAME = string("region-name", "Mine", "`name` of the region that people read")
NODE = string("node", "", "`name` of the node, unlike any other in the map (default the region's number and an a)")

_OWN: Final[tuple[Flag[Any], ...]] = (JSON, FOR, REGION_ID, REGION_CODE, REGION_NAME, NODE)
_NO_KEY: Final = ("-c", "/dev/null")
"""An entry does not contain the server's key, so its file need not be given."""


def main(words: Sequence[str]) -> int:
    """Run with the arguments after the tool's name."""
    line = parse_or_exit("derper map", (*DERPER_FLAGS, *_OWN), [*_NO_KEY, *words])
    try:
        return _show(line, _config(line))
    except (DerperError, OSError) as error:
        common.print_remark(f"derper map: {log.in_one_line(error)}")
        return 1


def _config(line: Parsed) -> Config:
    return config_from(settingsfile.under(line, SETTINGS, DERPER_FLAGS), Environment.of_this_process())


def _show(line: Parsed, config: Config) -> int:
    if line[FOR] not in ("", "tailscale", "headscale"):
        raise ConfigError(f"-for is '{line[FOR]}'; write tailscale or headscale")
    number = line[REGION_ID]
    if not 0 < number < 2**53:
        raise ConfigError(f"-region-id is {number}; write a number from 1 on, best from 900 to 999")
    empty = Region(number, line[REGION_CODE], line[REGION_NAME])
    region = mapentry.entry(config, empty, line[NODE] or f"{number}a")
    if line[JSON]:
        common.show_json({"Regions": {str(number): region.to_json()}})
    elif line[FOR]:
        sys.stdout.write(mapentry.policy(region) if line[FOR] == "tailscale" else mapentry.headscale(region))
    else:
        out = common.console()
        out.print(Text("Tailscale, into the policy file:\n", style="bold"))
        out.print(Text(mapentry.policy(region)))
        out.print(Text("Headscale, into a file that derp.paths names:\n", style="bold"))
        out.print(Text(mapentry.headscale(region)), end="")
    for remark in mapentry.remarks(config):
        common.print_remark(f"note: {remark}")
    return 0
