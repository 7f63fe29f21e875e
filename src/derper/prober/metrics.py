"""The prober's metric families: each sample has its probe's labels (docs/protocol/metrics.md)."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from derper.metrics.exposition import Family, Metric, Samples, Type
from derper.prober.probe import CONTINUOUS_SECONDS, Probe, Sample

_PREFIX: Final = "derpprobe_"
_NEVER: Final = -62_135_596_800
"""The end time of a run that has not ended, as in the Go prober: the year 1 in Unix seconds."""

_OF_PATH: Final = ("class", "derp_path", "hostname", "name", "region", "region_id")
_OF_BANDWIDTH: Final = (*_OF_PATH, "tcp_in_tcp")
_OF_ALL: Final = ("address_family", *_OF_BANDWIDTH)
"""Labels of any probe; each probe has those that apply."""


def _metric(name: str, kind: Type, help_text: str, labels: tuple[str, ...] = _OF_ALL) -> Metric:
    return Metric(f"{_PREFIX}{name}", kind, help_text, labels, has_help=True)


METRICS: Final = (
    _metric("attempts_total", Type.COUNTER, "Runs of the probe that have ended, by how", (*_OF_ALL, "status")),
    _metric(
        "derp_bw_bytes_total",
        Type.COUNTER,
        "Bytes that bandwidth probes carried through their TUN device",
        _OF_BANDWIDTH,
    ),
    _metric("derp_bw_probe_size_bytes", Type.GAUGE, "Bytes that a bandwidth probe is to carry", _OF_BANDWIDTH),
    _metric(
        "derp_bw_transfer_time_seconds_total",
        Type.COUNTER,
        "Seconds spent in transfers, failed ones included",
        _OF_BANDWIDTH,
    ),
    _metric(
        "derp_qd_probe_delays_seconds", Type.HISTOGRAM, "Seconds between a packet's sending and its arrival", _OF_PATH
    ),
    _metric(
        "derp_qd_probe_dropped_packets",
        Type.COUNTER,
        "Packets that came later than the timeout, or not at all",
        _OF_PATH,
    ),
    _metric("end_secs", Type.GAUGE, "When the last run ended, in Unix seconds"),
    _metric("in_flight", Type.GAUGE, "Runs in progress"),
    _metric(
        "interval_secs", Type.GAUGE, "Seconds between the begins of two runs; -10 for a probe that runs all the time"
    ),
    _metric("latency_millis", Type.GAUGE, "Milliseconds that the last run took, if it was good"),
    _metric("result", Type.GAUGE, "How the last run ended: 1 good, 0 failed"),
    _metric("seconds_total", Type.COUNTER, "Seconds spent in runs that have ended, by how", (*_OF_ALL, "status")),
    _metric("start_secs", Type.GAUGE, "When the last run began, in Unix seconds"),
)


def families(probes: Iterable[Probe]) -> Iterator[Family]:
    """Return all families that have a sample."""
    rows: dict[str, list[Sample]] = {metric.name: [] for metric in METRICS}
    for probe in probes:
        labels = probe.all_labels
        own = probe.measure.samples() if probe.measure else iter(())
        for name, (suffix, more, value) in (*_of_record(probe), *own):
            rows[f"{_PREFIX}{name}"].append((suffix, _in_order(labels, more), value))
    for metric in METRICS:
        if samples := rows[metric.name]:
            yield Family(metric, Samples(tuple(samples)))


def _in_order(labels: dict[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Return labels sorted by name, but a bucket's bound last, as readers expect."""
    all_labels = {**labels, **more}
    return dict(sorted(all_labels.items(), key=lambda label: (label[0] == "le", label[0])))


def _of_record(probe: Probe) -> Iterator[tuple[str, Sample]]:
    record, last = probe.record, probe.record.last
    yield "interval_secs", ("", {}, _number(CONTINUOUS_SECONDS if probe.interval is None else probe.interval))
    yield "in_flight", ("", {}, record.in_flight)
    if record.start is None:
        return
    yield "start_secs", ("", {}, int(record.start))
    if last is None:
        if probe.interval is None:
            yield "end_secs", ("", {}, _NEVER)
            yield "result", ("", {}, 0)
        return
    yield "end_secs", ("", {}, int(last.end))
    yield "result", ("", {}, int(last.ok))
    if last.ok:
        yield "latency_millis", ("", {}, int(last.seconds * 1_000))
    for ok, status in ((False, "fail"), (True, "ok")):
        yield "attempts_total", ("", {"status": status}, record.attempts[ok])
        yield "seconds_total", ("", {"status": status}, record.seconds[ok])


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() else value
