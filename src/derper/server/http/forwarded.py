"""Client addresses from trusted HTTP proxies: `X-Forwarded-For` is used if a trusted proxy sent it.

Pure. From other senders the header stays in the request, and code that checks addresses finds it there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

from derper.addresses import IPAddress
from derper.config import IPNetwork
from derper.dataplane import Remote
from derper.protocol.upgrade import RequestHead
from derper.web.access import unmapped

_HEADER: Final = "x-forwarded-for"


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The trusted proxies."""

    trusted: Sequence[IPNetwork]

    def client(self, remote: Remote, head: RequestHead) -> tuple[Remote, RequestHead]:
        """Return the client's address, and the head without the header that contained it.

        The header lists a client and its proxies, each of which appends the address that it was connected to. Read from
        the end, the first address that is not a trusted proxy's is the client's. If a trusted proxy sends no address,
        or an invalid one, the client is unknown.
        """
        if not self._trusts(remote.ip):
            return remote, head
        addresses = ",".join(head.get_all(_HEADER))
        others = tuple((name, value) for name, value in head.headers if name != _HEADER)
        rest = replace(head, headers=others)
        for name in reversed(addresses.split(",")):
            address = _address(name.strip())
            if address is None:
                break
            if not self._trusts(str(address)):
                return Remote(str(address), 0), rest
        return remote._replace(is_anonymous=True), rest

    def _trusts(self, ip: str) -> bool:
        return any(ip_address(ip) in network for network in self.trusted)


def _address(name: str) -> IPAddress | None:
    """Return the address in a text, which may have brackets and a port."""
    host = name.partition("]")[0].removeprefix("[") if name.startswith("[") else name
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        return unmapped(ip_address(host))
    except ValueError:
        return None
