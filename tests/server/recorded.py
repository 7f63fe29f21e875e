"""The HTTP exchanges recorded with the reference, and the comparison of our answers with them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from live import Server, answer_to, config_of, serving

from derper.server.http.connection import HttpServer

_FILE: Final = Path(__file__).parents[1] / "vectors" / "http.json"
RECORDED: Final[dict[str, Any]] = json.loads(_FILE.read_text())
Exchange = dict[str, Any]


def exchanges(*servers: str) -> list[Exchange]:
    return [exchange for exchange in RECORDED["exchanges"] if exchange["server"] in servers]


def called(exchange: Exchange) -> str:
    """Return a test id for an exchange."""
    return f"{exchange['server']}, {exchange['from']}: {exchange['name']}"


def path_of(exchange: Exchange) -> str:
    """Return the requested path; "" if the request is invalid."""
    _, _, target = exchange.get("request", "").partition(" ")
    return str(target.partition(" ")[0].partition("?")[0])


@asynccontextmanager
async def recorded_server(name: str, folder: Path) -> AsyncIterator[Server]:
    """Run a server with the flags and the environment of a recorded one, except for its address and DNS server."""
    (folder / "mesh.key").write_text("99" * 32)
    (folder / "debugkey").write_text("s3cret-key\n")
    (folder / "server.key").write_text('{"PrivateKey": "privkey:%s"}' % ("17" * 32))
    recorded = RECORDED["servers"][name]
    environ = dict(recorded.get("environment", {}))
    if "TS_DEBUG_KEY_PATH" in environ:
        environ["TS_DEBUG_KEY_PATH"] = str(folder / "debugkey")
    flags = list(recorded["flags"])
    for flag in ("-a", "-c", "-bootstrap-dns-names", "-unpublished-bootstrap-dns-names"):
        if flag in flags:
            at = flags.index(flag)
            del flags[at : at + 2]
    if "-mesh-psk-file" in flags:
        flags[flags.index("-mesh-psk-file") + 1] = str(folder / "mesh.key")
    async with serving(config_of(folder, *flags, **environ)) as server:
        yield server


async def differences(http: HttpServer, exchange: Exchange) -> dict[str, tuple[Any, Any]]:
    """Replay an exchange from its recorded client address; return the differences as pairs of ours and theirs."""
    remote = RECORDED["clients"][exchange["from"]]
    status, headers, body = await answer_to(http, exchange["request"].encode(), remote)
    ours: dict[str, Any] = {f"header {name}": value for name, value in headers.items()}
    theirs: dict[str, Any] = {f"header {name}": value for name, value in exchange["headers"]}
    ours["status"], theirs["status"] = status, int(exchange["status_line"].split()[1])
    text = body.decode()
    framing = {"header Content-Length", "header Transfer-Encoding"}
    varying = {name if name == "body" else f"header {name}" for name in exchange.get("varies", [])}
    if "page" in exchange or exchange.get("chunked"):  # our text differs, or only our answer has a length
        varying |= framing
    if "page_says" in exchange:
        ours["says"] = {
            "abuse_contact": "abuse" in text,
            "disabled": "disabled" in text,
            "links_debug": "/debug/" in text,
        }
        theirs["says"] = exchange["page_says"]
    if "page_items" in exchange:
        lines = [
            line.partition("<b>")[2].removesuffix("</li>").partition(":</b> ")
            for line in text.splitlines()
            if "<b>" in line
        ]
        ours["items"], theirs["items"] = ([[name, value] for name, _, value in lines], exchange["page_items"])
        for items in (ours["items"], theirs["items"]):
            items[:] = [[name, "" if name in ("Uptime", "Version", "Machine") else value] for name, value in items]
    elif "body" in exchange:
        ours["body"], theirs["body"] = text, exchange["body"]
    names = (ours.keys() | theirs.keys()) - varying
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}
