"""For whom a proxy that speaks HTTP passes requests on: `X-Forwarded-For`, believed from trusted proxies alone.

Pure. From anybody else the header stays where it is, and whoever judges by addresses sees it there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

from derper.config import IPAddress, IPNetwork
from derper.dataplane import Remote
from derper.protocol.upgrade import RequestHead
from derper.web.access import unmapped

_HEADER: Final = "x-forwarded-for"


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The proxies that are believed."""

    trusted: Sequence[IPNetwork]

    def client(self, remote: Remote, head: RequestHead) -> tuple[Remote, RequestHead]:
        """Return the client's address, and the head without the header that named it.

        The header lists a client and the proxies behind it, each of which adds whom it heard: read from its end, the
        first one that is no trusted proxy is the client, whatever stands before it. A trusted proxy that does not say
        for whom it asks, or says it in no address, asks for nobody known.
        """
        if not self._trusts(remote.ip):
            return remote, head
        said = ",".join(head.get_all(_HEADER))
        others = tuple((name, value) for name, value in head.headers if name != _HEADER)
        rest = replace(head, headers=others)
        for name in reversed(said.split(",")):
            address = _address(name.strip())
            if address is None:
                break
            if not self._trusts(str(address)):
                return Remote(str(address), 0), rest
        return remote._replace(is_anonymous=True), rest

    def _trusts(self, ip: str) -> bool:
        return any(ip_address(ip) in network for network in self.trusted)


def _address(name: str) -> IPAddress | None:
    """Read an address, also in brackets and with a port behind it."""
    host = name.partition("]")[0].removeprefix("[") if name.startswith("[") else name
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return unmapped(ip_address(host))
    except ValueError:
        return None
