"""Access to the debug pages (docs/protocol/http.md, Debug access)."""

import asyncio
import hmac
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Final

from aiohttp import web

from derper.addresses import IPAddress
from derper.config import DebugAccess, IPNetwork
from derper.dataplane import Remote

_TAILSCALE: Final[tuple[IPNetwork, ...]] = (ip_network("100.64.0.0/10"), ip_network("fd7a:115c:a1e0::/48"))


async def may_see(request: web.Request, access: DebugAccess | None) -> bool:
    """Return whether a request has access, by the debug key or by its address; False without `access`.

    Behind a proxy every request has the proxy's address, so the address grants nothing.
    """
    if access is None:
        return False
    if request.method == "GET" and await _has_key(request.query.get("debugkey", ""), access.key_file):
        return True
    if any(request.headers.getall("X-Forwarded-For", ())):
        return False
    if _is_anonymous(request):
        return False
    address = remote_address(request)
    return address is not None and is_trusted(address, access)


def remote_address(request: web.Request) -> IPAddress | None:
    """Return the client's address."""
    try:
        return unmapped(ip_address(request.remote or ""))
    except ValueError:
        return None


def _is_anonymous(request: web.Request) -> bool:
    """Return whether a proxy passed the connection on without the client's address."""
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    return isinstance(peer, Remote) and peer.is_anonymous


def is_trusted(address: IPAddress, access: DebugAccess) -> bool:
    """Return whether requests from the address have access without a key."""
    address = unmapped(address)
    if address.is_loopback or (access.address is not None and address == unmapped(access.address)):
        return True
    return any(address in network for network in (*_TAILSCALE, *access.networks))


def unmapped(address: IPAddress) -> IPAddress:
    """Return an address, IPv4 if it is IPv4-mapped."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


async def _has_key(key: str, file: Path | None) -> bool:
    if not key or file is None:
        return False
    try:
        # The file is read for each request, so that a key removed from it is invalid at once. It is read in a thread,
        # because the disk may be slow.
        wanted = (await asyncio.to_thread(file.read_bytes)).strip()
    except OSError:
        return False
    return hmac.compare_digest(key.encode(), wanted)
