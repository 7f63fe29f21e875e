"""The HTTP exchanges that were recorded with the reference, and how an answer of ours is held to one of them."""

import json
from pathlib import Path
from typing import Any, Final

from live import answer_to

from derper.server.http import HttpServer

_FILE: Final = Path(__file__).parents[1] / "vectors" / "http.json"
RECORDED: Final[dict[str, Any]] = json.loads(_FILE.read_text())
Exchange = dict[str, Any]


def exchanges(*servers: str) -> list[Exchange]:
    return [exchange for exchange in RECORDED["exchanges"] if exchange["server"] in servers]


def called(exchange: Exchange) -> str:
    """A name for a test of it."""
    return f"{exchange['server']}, {exchange['from']}: {exchange['name']}"


async def differences(http: HttpServer, exchange: Exchange) -> dict[str, tuple[Any, Any]]:
    """Play one, from the address that it was recorded from; give what differs, as ours and theirs."""
    remote = RECORDED["clients"][exchange["from"]]
    status, headers, body = await answer_to(http, exchange["request"].encode(), remote)
    ours: dict[str, Any] = {f"header {name}": value for name, value in headers.items()}
    theirs: dict[str, Any] = {f"header {name}": value for name, value in exchange["headers"]}
    ours["status"], theirs["status"] = status, int(exchange["status_line"].split()[1])
    if "page" in exchange:  # the words are ours, and so is their length
        del ours["header Content-Length"], theirs["header Content-Length"]
    else:
        ours["body"], theirs["body"] = body.decode(), exchange["body"]
    varying = {"body" if name == "body" else f"header {name}" for name in exchange.get("varies", [])}
    names = (ours.keys() | theirs.keys()) - varying
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}
