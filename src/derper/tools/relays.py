"""The relays of an argument: a host, a URL, or a DERP map in a file or on the web."""

import asyncio
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from derper import log
from derper.client.target import PATH, Target, is_address
from derper.errors import ConfigError, NetworkError, ProtocolError
from derper.host import files, outgoing
from derper.protocol.derpmap import MAX_BYTES, DerpMap, Region

FETCH_SECONDS = 20.0


async def targets(word: str, *, region: str = "", cert_name: str = "", stun_port: int = 0) -> list[tuple[str, Target]]:
    """Return the relays with their display names.

    Args:
        word: `name`, `name:port`, an address, the URL of a relay, the path or the URL of a DERP map.
        region: For a map: only this region, by its number or its code.
        cert_name: For a host or URL, the same as a map's `CertName`: another name, or a pin.
        stun_port: For a host or URL, the same as a map's `STUNPort`: 0 for 3478, -1 for none.

    Raises:
        ConfigError: The argument is invalid, or the map has no such region.
        NetworkError: The map cannot be fetched.
    """
    if (file := Path(word)).is_file():
        return _of_map(_parsed(files.read(file, "the DERP map", most=MAX_BYTES), word), region)
    if "://" in word and urlsplit(word).path.rstrip("/") not in ("", PATH):
        return _of_map(_parsed(await _fetch(word), word), region)
    if "://" not in word and _is_path(word):
        raise ConfigError(_no_map(file))
    if region:
        raise ConfigError(f"--region picks a region of a DERP map, and {word} is a host; name a map's file or URL")
    target = Target.of_url(word if "://" in word else f"https://{_bracketed(word)}", cert_name)
    return [(target.authority, replace(target, node=replace(target.node, stun_port=stun_port)))]


def _is_path(word: str) -> bool:
    """Return whether an argument is a file's path: no host name has a slash or such an ending."""
    return "/" in word or word.endswith((".json", ".hujson", ".yaml", ".yml"))


def _no_map(file: Path) -> str:
    what = "is a directory" if file.is_dir() else "No such file or directory"
    return f"the DERP map {file} cannot be read ({what}); name a file, or a relay as HOST[:PORT] or https://HOST"


def _bracketed(word: str) -> str:
    return f"[{word}]" if is_address(word) and ":" in word else word


def _of_map(derp_map: DerpMap, region: str) -> list[tuple[str, Target]]:
    chosen = [one for number, one in derp_map.regions.items() if region in ("", str(number), one.code)]
    found = [(_called(one, node.name), Target(node)) for one in chosen for node in one.nodes]
    if not found:
        known = ", ".join(f"{number} ({one.code})" for number, one in derp_map.regions.items()) or "none"
        raise ConfigError(f"the DERP map has no node in region {region or 'any'}; its regions are: {known}")
    return found


def _called(region: Region, node: str) -> str:
    return f"{region.code or region.id}/{node}"


def _parsed(data: bytes, word: str) -> DerpMap:
    try:
        return DerpMap.from_json(data)
    except ProtocolError as error:
        raise ConfigError(
            f"{word} is not a DERP map ({error}); give JSON with Regions, such as `derper map -json` prints"
        ) from error


async def _fetch(url: str) -> bytes:
    try:
        async with asyncio.timeout(FETCH_SECONDS), outgoing.session() as session:
            return await outgoing.fetch(session, url, f"fetching the DERP map {url}", MAX_BYTES)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NetworkError(f"the DERP map at {url} cannot be fetched ({log.in_one_line(error)})") from error
