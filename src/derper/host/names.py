"""Name look-ups: the hosts file first, then the servers of resolv.conf, within a deadline.

Unlike the system's resolver, this one runs on the loop and can be cancelled, and it reads TXT records. Each `Names`
reads both files again, so changes are used from the next round.
"""

import asyncio
import ipaddress
from collections import defaultdict
from pathlib import Path
from typing import Final

from dns.asyncresolver import Resolver
from dns.exception import DNSException
from dns.rdatatype import RdataType
from dns.resolver import NXDOMAIN, NoAnswer, NoResolverConfiguration

from derper.addresses import IPAddress
from derper.errors import NetworkError

HOSTS: Final = Path("/etc/hosts")
_LOCAL_SERVERS: Final = ("127.0.0.1", "::1")
"""The servers if resolv.conf names none."""


class Names:
    """The current hosts file and name servers."""

    def __init__(self, resolver: Resolver | None = None, hosts: Path = HOSTS) -> None:
        self._resolver = resolver or _system_resolver()
        self._hosts = _read_hosts(hosts)

    async def addresses(self, name: str, seconds: float) -> list[IPAddress]:
        """Return a name's addresses of both families, at least one, in the order of the answers.

        Raises:
            NetworkError: The name has none, or no server answered in time.
        """
        if (known := self._hosts.get(name.rstrip(".").lower()) or _as_address(name)) is not None:
            return known
        answers = await asyncio.gather(
            *(self._ask(name, kind, seconds) for kind in (RdataType.A, RdataType.AAAA)), return_exceptions=True
        )
        found = [ipaddress.ip_address(text) for answer in answers if isinstance(answer, list) for text in answer]
        if not found:
            raise next((answer for answer in answers if isinstance(answer, BaseException)), _nothing(name))
        return found

    async def texts(self, name: str, seconds: float) -> list[str]:
        """Return a name's TXT records, their parts joined; empty if an authoritative answer has none.

        Raises:
            NetworkError: No server answered in time.
        """
        return await self._ask(name, RdataType.TXT, seconds)

    async def _ask(self, name: str, kind: RdataType, seconds: float) -> list[str]:
        try:
            answer = await self._resolver.resolve(name, kind, lifetime=seconds, search=True)
        except (NXDOMAIN, NoAnswer):
            return []
        except (DNSException, OSError) as error:
            raise NetworkError(f"{kind.name} of {name}: {' '.join(str(error).split())}") from error
        if kind is RdataType.TXT:
            return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]
        return [record.address for record in answer]


def _nothing(name: str) -> NetworkError:
    return NetworkError(f"{name} has no address")


def _as_address(name: str) -> list[IPAddress] | None:
    try:
        return [ipaddress.ip_address(name)]
    except ValueError:
        return None


def _system_resolver() -> Resolver:
    try:
        return Resolver()
    except (NoResolverConfiguration, OSError):
        resolver = Resolver(configure=False)
        resolver.nameservers = list(_LOCAL_SERVERS)
        return resolver


def _read_hosts(path: Path) -> dict[str, list[IPAddress]]:
    """Return the hosts file's addresses by name; like the system, ignore invalid lines."""
    found: defaultdict[str, list[IPAddress]] = defaultdict(list)
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        for known in _as_address(address) or ():
            for name in names:
                found[name.rstrip(".").lower()].append(known)
    return dict(found)
