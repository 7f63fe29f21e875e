"""`derper top`: the clients of a running server by their traffic, over its admin listener."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from derper.cli.tools import common
from derper.tools.admin import AdminClient
from derper.tools.traffic import Traffic, Watch


def main(words: Sequence[str]) -> int:
    """Run with the arguments after the tool's name."""
    parser = common.parser("top", "Show the clients of a running server by their traffic, until Ctrl-C.")
    common.add_place(parser)
    parser.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="what a rate is taken over (2)")
    parser.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="how many clients (20)")
    parser.add_argument("--once", action="store_true", help="show them once, as with --json and where no terminal is")
    return common.finish("top", _show(parser.parse_args(words)))


async def _show(asked: argparse.Namespace) -> int:
    async with AdminClient(asked.admin, Path(asked.token_file) if asked.token_file else None) as server:
        watch = Watch(server)
        await watch.look()
        if asked.json or asked.once or not sys.stdout.isatty():
            await asyncio.sleep(asked.interval)
            clients = await watch.look()
            if asked.json:
                common.show_json([client.as_json() for client in clients[: asked.lines]])
                for problem in watch.problems:
                    common.print_remark(problem)
            else:
                common.console().print(_screen(watch, clients, asked.lines))
            return 0
        with Live(console=common.console(), auto_refresh=False, screen=True) as live:
            while True:
                live.update(_screen(watch, await watch.look(), asked.lines), refresh=True)
                await asyncio.sleep(asked.interval)


def _screen(watch: Watch, clients: list[Traffic], lines: int) -> Group:
    return Group(*(Text(problem, style="bold red") for problem in watch.problems), _table(clients, lines))


def _table(clients: list[Traffic], lines: int) -> Table:
    table = Table(title=f"{len(clients)} connections", box=None, title_justify="left")
    table.add_column("KEY", no_wrap=True)
    table.add_column("FROM", no_wrap=True)
    for name in ("IN/s", "OUT/s", "PACKETS/s", "IN", "OUT"):
        table.add_column(name, justify="right", no_wrap=True)
    for client in clients[:lines]:
        table.add_row(
            client.key[:24] + "…", client.remote, _bytes(client.in_rate), _bytes(client.out_rate),
            f"{client.packet_rate:,.0f}", _bytes(client.bytes_in), _bytes(client.bytes_out),
        )  # fmt: skip
    return table


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1_000:  # noqa: PLR2004  the size of the next unit
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1_000
    return f"{count:,.1f} TB"
