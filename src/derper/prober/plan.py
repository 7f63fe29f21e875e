"""The probes of a map, and the probe that fetches the map and schedules them.

`Planner` decides; only the probes themselves send requests to relays.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

import structlog
from structlog.typing import FilteringBoundLogger

from derper.errors import ProtocolError
from derper.prober.bandwidth import BandwidthCheck, Transferred
from derper.prober.clients import Clients
from derper.prober.config import ProberConfig
from derper.prober.mesh import MeshCheck
from derper.prober.probe import SHARE, Kind, Probe
from derper.prober.queuing import Delays, QueuingCheck
from derper.prober.revocation import RevocationLists
from derper.prober.schedule import Schedule
from derper.prober.source import MapSource
from derper.prober.tls import TlsCheck
from derper.prober.trust import Trust
from derper.prober.tunnel import Tunnel
from derper.prober.udp import UdpCheck
from derper.protocol.derpmap import DerpMap, Node, Region

_log: FilteringBoundLogger = structlog.get_logger()

MAP_PROBE: Final = "derpmap-probe"
MOST_PROBES: Final = 10_000
"""Maximum probes of a map; the public one has about a thousand. Within a region they grow with the square of its nodes.
"""


@dataclass(frozen=True, slots=True)
class Planner:
    """Creates the probes of a map."""

    config: ProberConfig
    trust: Trust
    lists: RevocationLists
    clients: Clients
    tunnel: Tunnel | None

    def probes(self, derp_map: DerpMap) -> Iterator[Probe]:
        """Yield a new probe of each kind for everything in the map, region by region, node by node."""
        for region in derp_map.regions.values():
            if self.config.region not in ("", region.code, str(region.id)):
                continue
            for node in region.nodes:
                yield from self._of_node(region, node)
                for other in region.nodes:
                    yield from self._of_pair(region, node, other)

    def _of_node(self, region: Region, node: Node) -> Iterator[Probe]:
        name, labels = f"derp/{region.code}/{node.name}", _labels(region, node)
        if self.config.intervals.tls is not None:
            check = TlsCheck(node, self.trust, self.lists)
            yield Probe(f"{name}/tls", Kind.TLS, self.config.intervals.tls, labels, check)
        if self.config.intervals.stun is not None and node.stun is not None:
            for suffix, version in _FAMILIES:
                if address := node.address(version):
                    yield Probe(
                        f"{name}/{suffix}",
                        Kind.UDP,
                        self.config.intervals.stun,
                        labels | {"address_family": f"ipv{version}"},
                        UdpCheck(address, node.stun, self.config.intervals.stun * SHARE),
                    )

    def _of_pair(self, region: Region, node: Node, other: Node) -> Iterator[Probe]:
        name = f"derp/{region.code}/{node.name}/{other.name}"
        labels = _labels(region, node) | {"derp_path": "single" if node == other else "mesh"}
        if self.config.intervals.mesh is not None:
            check = MeshCheck(f"{name}/mesh", (node, other), self.clients)
            yield Probe(check.name, Kind.MESH, self.config.intervals.mesh, labels, check)
        if self.config.intervals.bandwidth is not None:
            yield self._bandwidth(f"{name}/bw", labels, (node, other), self.config.intervals.bandwidth)
        if self.config.queuing.packets_per_second:
            yield self._queuing(f"{name}/qd", labels, (node, other))

    def _bandwidth(self, name: str, labels: dict[str, str], nodes: tuple[Node, Node], interval: float) -> Probe:
        size = self.config.bandwidth.size
        measure = Transferred(size, through_tun=self.tunnel is not None)
        check = BandwidthCheck(name, nodes, self.clients, size, self.tunnel, measure)
        how = {"tcp_in_tcp": "false" if self.tunnel is None else "true"}
        return Probe(name, Kind.BANDWIDTH, interval, labels | how, check, measure)

    def _queuing(self, name: str, labels: dict[str, str], nodes: tuple[Node, Node]) -> Probe:
        measure, wanted = Delays(), self.config.queuing
        check = QueuingCheck(name, nodes, self.clients, wanted.packets_per_second, wanted.timeout, measure)
        return Probe(name, Kind.QUEUING, None, labels, check, measure)


_FAMILIES: Final[tuple[tuple[str, Literal[4, 6]], ...]] = (("udp", 4), ("udp6", 6))


def _labels(region: Region, node: Node) -> dict[str, str]:
    return {"region": region.code, "region_id": str(region.id), "hostname": node.host_name}


class MapProbe:
    """The fetch of the map, as a probe, and the schedule of its probes."""

    def __init__(self, planner: Planner, source: MapSource, schedule: Schedule | None = None) -> None:
        self._planner = planner
        self._source = source
        self._schedule = schedule
        self.probes: list[Probe] = []  # of the last map

    def probe(self) -> Probe:
        """Return the probe."""
        return Probe(MAP_PROBE, Kind.MAP, self._planner.config.intervals.derp_map, {}, self._fetch)

    async def _fetch(self) -> None:
        """Fetch the map and create its probes; if there is a schedule, replace its probes by these."""
        probes = list(islice(self._planner.probes(await self._source.fetch()), MOST_PROBES + 1))
        if len(probes) > MOST_PROBES:
            raise ProtocolError(
                f"the map asks for more than {MOST_PROBES:,} probes; choose one region with -region-code"
            )
        self.probes = probes
        if self._schedule is not None:
            self._keep(self._schedule)

    def _keep(self, schedule: Schedule) -> None:
        wanted = {probe.name: probe for probe in self.probes}
        for probe in schedule.probes:
            # A node with changed settings is a new node; the old record does not apply.
            if probe.kind is not Kind.MAP and not _is_same(probe, wanted.get(probe.name)):
                schedule.remove(probe.name)
                _log.info("probe removed", name=probe.name)
        new = [probe for probe in wanted.values() if schedule.find(probe.name) is None]
        schedule.add_all(new)
        for probe in new:
            _log.info("probe added", name=probe.name)


def _is_same(probe: Probe, other: Probe | None) -> bool:
    return other is not None and (probe.labels, probe.check) == (other.labels, other.check)
