"""The schedule of probes: deadlines, no overlap, independent runs, and crashes that affect only one probe."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Final

from probed import config_of, map_file

from derper.errors import NetworkError
from derper.metrics import exposition
from derper.prober import metrics
from derper.prober.app import map_probe_of
from derper.prober.clients import Keys
from derper.prober.probe import Kind, Probe, Status
from derper.prober.schedule import Schedule

SECONDS: Final = 10.0
NO_KEYS: Final = Keys(None, None)
NODE: Final = {
    "Name": "900a",
    "RegionID": 900,
    "HostName": "a.example.test",
    "IPv4": "192.0.2.1",
    "IPv6": "2001:db8::1",
}


def probe(check: Callable[[], Awaitable[None]], *, name: str = "one", interval: float | None = 1.0) -> Probe:
    return Probe(name, Kind.MAP, interval, {}, check)


async def good() -> None:
    """Succeed."""


async def hanging() -> None:
    await asyncio.Event().wait()


async def test_a_run_ends_after_four_fifths_of_the_interval() -> None:
    one = probe(hanging, interval=0.25)
    began = monotonic()
    run = await one.run()
    assert 0.2 <= monotonic() - began < SECONDS
    assert run.error == "timeout: not done after 0.2 s"
    assert one.status is Status.FAILED


async def test_a_probe_never_overlaps_itself() -> None:
    running, most = 0, 0

    async def check() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    one = probe(check)
    await asyncio.gather(*(one.run() for _ in range(5)))
    assert most == 1
    assert one.record.attempts == {True: 5, False: 0}


async def test_a_crash_inside_a_probe_fails_only_that_probe() -> None:
    async def crashing() -> None:
        raise ZeroDivisionError("of all things")

    one = probe(crashing)
    assert (await one.run()).error == "crashed: ZeroDivisionError: of all things"
    schedule = Schedule(spread=False)
    other = probe(good, name="other", interval=0.01)
    schedule.add(one)
    schedule.add(other)
    await reached(lambda: other.record.attempts[True] >= 3)
    await schedule.stop()
    assert one.record.attempts[False] >= 2


async def test_a_hanging_probe_delays_no_other() -> None:
    schedule = Schedule(spread=False)
    hung, other = probe(hanging, name="hung", interval=60.0), probe(good, name="other", interval=0.01)
    schedule.add_all([hung, other])
    await reached(lambda: other.record.attempts[True] >= 5)
    assert hung.record.in_flight == 1
    await schedule.stop()


async def test_probes_are_spread_over_their_interval_and_keep_their_offsets() -> None:
    schedule = Schedule(spread=True)
    delays = {str(at): schedule.delay(probe(good, name=str(at), interval=100.0)) for at in range(100)}
    assert all(0 <= delay < 100 for delay in delays.values())
    assert {int(delay) // 25 for delay in delays.values()} == {0, 1, 2, 3}
    assert delays == {name: Schedule(spread=True).delay(probe(good, name=name, interval=100.0)) for name in delays}
    assert Schedule(spread=False).delay(probe(good)) == 0


async def test_a_failed_continuous_probe_reports_the_failure_and_that_it_does_not_run() -> None:
    ended = asyncio.Event()

    async def check() -> None:
        await ended.wait()
        raise NetworkError("the connection was lost")

    one = probe(check, interval=None)
    task = asyncio.create_task(one.run())
    await reached(lambda: one.record.in_flight == 1)
    seen = [one.status]
    ended.set()
    await task
    assert [*seen, one.status] == [Status.RUNNING, Status.FAILED]
    assert one.record.last is not None
    assert one.record.last.error == "the connection was lost"


def samples(*probes: Probe) -> dict[str, str]:
    lines = exposition.text(metrics.families(probes)).splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


async def test_before_its_first_run_a_probe_has_two_metrics_and_after_a_failure_no_latency() -> None:
    one = probe(hanging, interval=0.01)
    labels = '{class="derp_map",name="one"}'
    assert samples(one) == {f"derpprobe_interval_secs{labels}": "0.01", f"derpprobe_in_flight{labels}": "0"}
    await one.run()
    told = samples(one)
    assert told[f"derpprobe_result{labels}"] == "0"
    assert f"derpprobe_latency_millis{labels}" not in told
    assert told['derpprobe_attempts_total{class="derp_map",name="one",status="fail"}'] == "1"
    assert told['derpprobe_attempts_total{class="derp_map",name="one",status="ok"}'] == "0"


async def test_the_median_is_that_of_the_last_ten_good_runs() -> None:
    one = probe(good)
    for seconds in (9, 1, 8, 2, 7, 3, 6, 4, 5, 1, 1, 1):
        one.record.latencies.append(seconds)
    assert one.record.median_latency == 4


async def test_probes_follow_the_map_and_one_with_a_new_address_restarts(tmp_path: Path) -> None:
    second = NODE | {"Name": "900b"}
    flags = ("-derp-map", map_file(tmp_path, [NODE]), "-mesh-interval=60s", "-tls-interval=60s", "-stun-interval=60s")
    schedule = Schedule(spread=True)
    fetch = map_probe_of(config_of(None, *flags), NO_KEYS, schedule).probe()
    await fetch.run()
    alone = {f"derp/test/900a/{what}" for what in ("tls", "udp", "udp6", "900a/mesh")}
    assert {one.name for one in schedule.probes} == alone
    before = {one.name: one for one in schedule.probes}
    map_file(tmp_path, [NODE, second])
    await fetch.run()
    assert len(schedule.probes) == 2 * 3 + 4
    assert all(schedule.find(name) is one for name, one in before.items())
    map_file(tmp_path, [NODE | {"IPv4": "192.0.2.9"}])
    await fetch.run()
    assert {one.name for one in schedule.probes} == alone
    assert {name for name, one in before.items() if schedule.find(name) is one} == {"derp/test/900a/udp6"}
    await schedule.stop()


async def test_a_map_with_too_many_probes_is_rejected(tmp_path: Path) -> None:
    nodes = [NODE | {"Name": str(at)} for at in range(100)]
    fetch = map_probe_of(config_of(None, "-derp-map", map_file(tmp_path, nodes)), NO_KEYS).probe()
    assert "more than 10,000 probes" in (await fetch.run()).error


async def reached(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110  nothing tells of a record but looking again
            await asyncio.sleep(0.001)
