"""The whole prober, composed for each of its three modes."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import structlog
from structlog.typing import FilteringBoundLogger

from derper._version import version
from derper.errors import NetworkError
from derper.host import signals
from derper.prober import verdict
from derper.prober.clients import Clients, End, Keys
from derper.prober.config import ProberConfig
from derper.prober.pages import Pages
from derper.prober.plan import MapProbe, Planner
from derper.prober.probe import Probe
from derper.prober.revocation import RevocationLists
from derper.prober.schedule import Schedule
from derper.prober.schedule import run_once as run_all_once
from derper.prober.source import MapSource
from derper.prober.trust import Trust
from derper.prober.tunnel import Tunnel

_log: FilteringBoundLogger = structlog.get_logger()

_CONTINUOUS_SECONDS = 3.0
"""Seconds for a continuous probe if each probe runs once."""


_LOOK_UPS = 64
"""Concurrent look-ups; with the usual few, one name server that hangs would delay all probes."""


async def serve(config: ProberConfig, keys: Keys) -> int:
    """Probe until a signal stops it, and serve the results; return the exit code."""
    schedule = Schedule(spread=config.spread)
    map_probe = map_probe_of(config, keys, schedule)
    stopped = asyncio.Event()
    with signals.delivered(lambda _number: stopped.set()):
        async with Pages(config, schedule).served() as address:
            _log.info("probing", version=version(), status_page=address, derp_map=config.map_source)
            schedule.add(map_probe.probe())
            await stopped.wait()
            await schedule.stop()
    return 0


async def run_once(config: ProberConfig, keys: Keys, *, as_json: bool) -> int:
    """Run each probe once and print the results; return the exit code."""
    probes = await probe_once(config, keys)
    verdict.show(probes, as_json=as_json)
    return verdict.exit_code(probes)


async def print_keys(config: ProberConfig, keys: Keys) -> int:
    """Print the public keys of the probing clients, for the current map; return the exit code."""
    map_probe = map_probe_of(config, keys)
    run = await map_probe.probe().run()
    if not run.ok:
        raise NetworkError(f"the DERP map is needed to know the probes: {run.error}")
    clients = Clients(Trust.load(config.roots), keys)
    for probe in map_probe.probes:
        if "derp_path" in probe.labels:
            for end in End:
                with suppress(BrokenPipeError):
                    sys.stdout.write(f"{clients.key(probe.name, end).public()} {probe.name} {end}\n")
    return 0


async def probe_once(config: ProberConfig, keys: Keys) -> list[Probe]:
    """Run each probe once, that of the map first; return the probes."""
    map_probe = map_probe_of(config, keys)
    first = map_probe.probe()
    await first.run()
    await run_all_once(map_probe.probes, spread=config.spread, continuous_seconds=_CONTINUOUS_SECONDS)
    return [first, *map_probe.probes]


def map_probe_of(config: ProberConfig, keys: Keys, schedule: Schedule | None = None) -> MapProbe:
    """Return the probe of the map; call it in the loop in which the probes will run."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_LOOK_UPS, "look-up"))
    trust = Trust.load(config.roots)
    tunnel = None if config.bandwidth.tun is None else Tunnel(config.bandwidth.tun)
    planner = Planner(config, trust, RevocationLists(config.proxies), Clients(trust, keys), tunnel)
    return MapProbe(planner, MapSource(config, trust), schedule)
