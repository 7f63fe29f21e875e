"""`derper ctl`: controls a running server over its admin listener."""

import argparse
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from derper.cli.tools import common
from derper.errors import ConfigError, ProtocolError
from derper.protocol.keys import node_key_prefix
from derper.tools.admin import AdminClient

_MOST_SHOWN = 5


def main(words: Sequence[str]) -> int:
    """Run with the arguments after the tool's name."""
    parser = common.parser("ctl", "Tell a running server what to do, over its admin listener.")
    common.add_place(parser)
    anywhere = common.options_after_the_action()
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text, parents=[anywhere], allow_abbrev=False)

    action("drain", "send all clients away and end, as SIGTERM does; asked again, end at once")
    action("reload", "read settings, limits and certificates again, as SIGHUP does")
    disconnect = action("disconnect", "close all connections of a key; the client may reconnect")
    disconnect.add_argument("key", metavar="KEY", help="nodekey:…, or its beginning where one connected key has it")
    health = action("health", "have all clients show a text to their users")
    health.add_argument("text", nargs="?", default="", metavar="TEXT", help="nothing: all is well again")
    return common.finish("ctl", _run_action(parser.parse_args(words)))


async def _run_action(asked: argparse.Namespace) -> int:
    words = {}
    if asked.action == "disconnect":
        words["key"] = _checked(asked.key)
    elif asked.action == "health" and asked.text:
        words["text"] = asked.text
    async with AdminClient(asked.admin, Path(asked.token_file) if asked.token_file else None) as server:
        status, answer = await server.do(asked.action, **words)
    if asked.json:
        common.show_json(answer)
    else:
        _show(asked.action, answer)
    return 0 if status < HTTPStatus.BAD_REQUEST else 1


def _show(action: str, answer: dict[str, object]) -> None:
    match action:
        case "drain":
            common.print_remark("it sends its clients away and ends")
        case "reload":
            failed = answer["failed"]
            for what, why in failed.items() if isinstance(failed, dict) else ():
                common.print_remark(f"not reloaded: {what}: {why}")
            if not failed:
                common.print_remark("reloaded")
        case "disconnect":
            common.print_remark(_disconnected(answer))
        case _:
            common.print_remark(
                "all clients are sent the message"
                if answer["text"]
                else "all clients are sent an empty message, which ends the problem"
            )


def _disconnected(answer: dict[str, object]) -> str:
    matches = answer.get("matches")
    if isinstance(matches, list) and matches:
        shown = ", ".join(matches[:_MOST_SHOWN]) + (", …" if len(matches) > _MOST_SHOWN else "")
        return f"ambiguous key {answer['key']}: {len(matches)} connected keys begin with it ({shown}); give more digits"
    if not answer["connections"]:
        return f"no client with the key {answer['key']} is connected; derper top shows the connected keys"
    return f"connections closed: {answer['connections']}"


def _checked(text: str) -> str:
    try:
        node_key_prefix(text)
    except ProtocolError as error:
        raise ConfigError(f"{error}; got '{text}'") from error
    return text
