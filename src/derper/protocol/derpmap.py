"""The DERP map: the regions of relays, and the addresses of their nodes.

Parsed as Go's clients parse it: member names without case, unknown members ignored, absent ones zero. Written as Go
writes it, without zero values. The caller checks whether a map is consistent (duplicate node names, a region without
nodes). Only a malformed map raises `ProtocolError`. See docs/protocol/derpmap.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Literal, Self

from derper.errors import ProtocolError
from derper.protocol import gojson

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HTTPS_PORT = 443
STUN_PORT = 3478
MAX_BYTES = 4_000_000
"""Maximum size of a fetched map; the public one has 30 kB."""
MAX_VALUES = 100_000
"""Maximum values in a map; the largest real one has a thousand."""

_PORTS = range(65_536)
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Node:
    """One relay of a region. The attributes are the map's members, the properties their meaning.

    Attributes:
        name: The name, unique over all regions.
        region_id: The region's number.
        host_name: A DNS name or an IP address.
        cert_name: Another name that the certificate must have, or a pin, `sha256-raw:` and 64 hex digits. Empty: the
            certificate must be for `host_name`.
        ipv4: An IPv4 address; empty: look up the name; any other text switches IPv4 off.
        ipv6: The same for IPv6.
        stun_port: The UDP port of STUN; 0: 3478, negative: no STUN.
        stun_only: Whether the node answers STUN only and does not relay.
        derp_port: The TCP port of DERP; 0: 443.
        insecure_for_tests: Accept any certificate.
        stun_test_ip: An address for STUN in tests.
        can_port_80: Whether the node answers HTTP on port 80.

    Source: docs/protocol/derpmap.md.
    """

    name: str
    region_id: int
    host_name: str
    cert_name: str = ""
    ipv4: str = ""
    ipv6: str = ""
    stun_port: int = 0
    stun_only: bool = False
    derp_port: int = 0
    insecure_for_tests: bool = False
    stun_test_ip: str = ""
    can_port_80: bool = False

    @property
    def port(self) -> int:
        """The TCP port of DERP."""
        return self.derp_port or HTTPS_PORT

    @property
    def stun(self) -> int | None:
        """The UDP port of STUN; None: the node does not answer STUN."""
        return (self.stun_port or STUN_PORT) if self.stun_port >= 0 else None

    @property
    def authority(self) -> str:
        """Name and port, as in a URL or a Host header."""
        host = f"[{self.host_name}]" if ":" in self.host_name else self.host_name
        return host if self.port == HTTPS_PORT else f"{host}:{self.port}"

    def address(self, version: Literal[4, 6]) -> IPv4Address | IPv6Address | None:
        """Return the address that the map names for an IP `version`; None: it names none."""
        try:
            return IPv4Address(self.ipv4) if version == 4 else IPv6Address(self.ipv6)  # noqa: PLR2004  an IP version
        except ValueError:
            return None

    def dial_host(self, version: Literal[4, 6]) -> str | None:
        """Return the host to connect to over an IP `version`: an address, a DNS name, or None: that version is off."""
        named = self.ipv4 if version == 4 else self.ipv6  # noqa: PLR2004  an IP version
        if not named:
            return self.host_name
        address = self.address(version)
        return str(address) if address else None

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse the `value` of a member of `Nodes`.

        Raises:
            ProtocolError: Not an object, or a member of the wrong type.
        """
        fields = _fields(value, "node", _NODE_MEMBERS)
        return cls(**{"name": "", "region_id": 0, "host_name": "", **fields})

    def to_json(self) -> dict[str, Any]:
        """Return the node as Go writes it, to be dumped as JSON."""
        return _members(self, _NODE_MEMBERS, always=("name", "region_id", "host_name"))


@dataclass(frozen=True, slots=True)
class Region:
    """Relays in one place that form a mesh. Clients prefer the first.

    Attributes:
        id: The region's number; 900 to 999 are for self-hosters.
        code: A short name.
        name: A name for people.
        latitude: Degrees.
        longitude: Degrees.
        avoid: Deprecated: clients do not choose the region as their home.
        no_measure_no_home: Clients neither measure the region nor choose it as their home.
        nodes: The relays, in the order in which clients try them.

    Source: docs/protocol/derpmap.md.
    """

    id: int
    code: str
    name: str = ""
    latitude: float = 0.0
    longitude: float = 0.0
    avoid: bool = False
    no_measure_no_home: bool = False
    nodes: tuple[Node, ...] = ()

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse the `value` of a member of `Regions`.

        Raises:
            ProtocolError: Not an object, or a member of the wrong type.
        """
        fields = _fields(value, "region", _REGION_MEMBERS)
        return cls(**{"id": 0, "code": "", **fields})

    def to_json(self) -> dict[str, Any]:
        """Return the region as Go writes it, to be dumped as JSON."""
        written = _members(self, _REGION_MEMBERS, always=("id", "code", "name"))
        return written | {"Nodes": [node.to_json() for node in self.nodes]}


@dataclass(frozen=True, slots=True)
class DerpMap:
    """A DERP map: all regions of relays.

    Attributes:
        regions: The regions, by their number in the map, which should be the region's own `id`.
        omit_default_regions: Whether clients leave out the regions of their control server.
        region_scores: Factors for measured latencies, by the region's number.

    Source: docs/protocol/derpmap.md.
    """

    regions: Mapping[int, Region] = field(default_factory=dict)
    omit_default_regions: bool = False
    region_scores: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Parse a map.

        Args:
            data: JSON, in UTF-8; bytes after the object are ignored.

        Raises:
            ProtocolError: Not JSON, not an object, a member of the wrong type, more than 100,000 values.
        """
        regions: dict[int, Region] = {}
        scores: dict[int, float] = {}
        omit = False
        for name, value in gojson.members(data, max_values=MAX_VALUES, ignore_rest=True):
            if name == "regions":
                regions |= {
                    _region_id(key): Region.from_json(region)
                    for key, region in gojson.entries(value, "Regions")
                    if region is not None
                }
            elif name == "omitdefaultregions" and value is not None:
                omit = gojson.boolean(value, "omitDefaultRegions")
            elif name == "homeparams":
                for param, wanted in gojson.entries(value, "HomeParams"):
                    if param.casefold() == "regionscore":
                        rows = gojson.entries(wanted, "RegionScore")
                        scores |= {_region_id(key): gojson.real(score, "RegionScore") for key, score in rows}
        return cls(regions, omit, scores)

    def to_json(self) -> dict[str, Any]:
        """Return the map as Go writes it, to be dumped as JSON."""
        written: dict[str, Any] = {}
        if self.region_scores:
            written["HomeParams"] = {"RegionScore": {str(key): score for key, score in self.region_scores.items()}}
        written["Regions"] = {str(key): region.to_json() for key, region in self.regions.items()}
        if self.omit_default_regions:
            written["omitDefaultRegions"] = True
        return written

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, region by region."""
        return tuple(node for region in self.regions.values() for node in region.nodes)


def _region_id(key: str) -> int:
    digits = key.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(_INT64.stop)) and int(key) in _INT64):
        raise ProtocolError("JSON: a region's key: wanted an integer of 64 bits")
    return int(key)


def _port(value: object, name: str) -> int:
    number = gojson.integer(value, name)
    if number not in _PORTS and number >= 0:
        raise ProtocolError(f"JSON: {name}: wanted a port, 0 to 65,535")
    return number


def _nodes(value: object, name: str) -> tuple[Node, ...]:
    return tuple(Node.from_json(node) for node in gojson.array(value, name) if node is not None)


# The map's members: name in JSON, name here, parser.
_Members = tuple[tuple[str, str, "Callable[[object, str], object]"], ...]
_NODE_MEMBERS: _Members = (
    ("Name", "name", gojson.text),
    ("RegionID", "region_id", gojson.integer),
    ("HostName", "host_name", gojson.text),
    ("CertName", "cert_name", gojson.text),
    ("IPv4", "ipv4", gojson.text),
    ("IPv6", "ipv6", gojson.text),
    ("STUNPort", "stun_port", _port),
    ("STUNOnly", "stun_only", gojson.boolean),
    ("DERPPort", "derp_port", _port),
    ("InsecureForTests", "insecure_for_tests", gojson.boolean),
    ("STUNTestIP", "stun_test_ip", gojson.text),
    ("CanPort80", "can_port_80", gojson.boolean),
)
_REGION_MEMBERS: _Members = (
    ("RegionID", "id", gojson.integer),
    ("RegionCode", "code", gojson.text),
    ("RegionName", "name", gojson.text),
    ("Latitude", "latitude", gojson.real),
    ("Longitude", "longitude", gojson.real),
    ("Avoid", "avoid", gojson.boolean),
    ("NoMeasureNoHome", "no_measure_no_home", gojson.boolean),
    ("Nodes", "nodes", _nodes),
)


def _fields(value: object, what: str, members: _Members) -> dict[str, Any]:
    known = {name.casefold(): (name, field_name, read) for name, field_name, read in members}
    fields: dict[str, Any] = {}
    for key, member in gojson.entries(value, what):
        if member is not None and (entry := known.get(key.casefold())):
            name, field_name, read = entry
            fields[field_name] = read(member, name)
    return fields


def _members(value: Node | Region, members: _Members, always: tuple[str, ...]) -> dict[str, Any]:
    written = {name: getattr(value, field_name) for name, field_name, read in members if read is not _nodes}
    names = {name for name, field_name, _ in members if field_name in always}
    return {name: member for name, member in written.items() if member or name in names}
