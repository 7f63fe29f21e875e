"""The families of `/debug/vars`: one JSON object, grouped and named as in the Go server (metrics.md)."""

from collections.abc import Iterable
from typing import Final

from derper.metrics.exposition import Family, Histogram, Labelled, Samples, Type, Value

_GROUPS: Final = ("derp", "stun", "tls_listener")
_UNGROUPED: Final = ("derp_websocket_accepts", "derp_packets_dropped", "derp_bytes_dropped")
_COUNTERS_WITH_PREFIX: Final = ("derp_total_dup_client_conns",)
_STRINGS: Final = ("version",)  # families whose value is their first label


def variables(families: Iterable[Family]) -> dict[str, object]:
    """Return the object's members, sorted by name."""
    top: dict[str, object] = {}
    groups: dict[str, dict[str, object]] = {}
    for family in families:
        group = _group(family.metric.name)
        name = _prefix(family, group) + (family.metric.name.removeprefix(f"{group}_") if group else family.metric.name)
        (groups.setdefault(group, {}) if group else top)[name] = _value(family)
    for group, members in groups.items():
        if group == "derp" and "version" in top:
            members["version"] = top["version"]
        top[group] = dict(sorted(members.items()))
    return dict(sorted(top.items()))


def _group(name: str) -> str:
    if name in _UNGROUPED:
        return ""
    return next((group for group in _GROUPS if name.startswith(f"{group}_")), "")


def _prefix(family: Family, group: str) -> str:
    if family.metric.name in _UNGROUPED or family.metric.type is None:
        return ""
    if family.metric.type is Type.GAUGE:
        return "gauge_"
    is_bare = (
        group == "derp" and isinstance(family.value, int | float) and family.metric.name not in _COUNTERS_WITH_PREFIX
    )
    return "" if is_bare else "counter_"


def _value(family: Family) -> object:
    if family.metric.name in _STRINGS and isinstance(family.value, Labelled):
        return next(iter(family.value.values))[0]
    return _json(family.value)


def _json(value: Value) -> object:
    match value:
        case Labelled(labels, values) if len(labels) == 1:
            return {at[0]: number for at, number in sorted(values.items())}
        case Labelled() | Samples():
            return "MultiLabelMap"
        case Histogram() as histogram:
            return dict(histogram.cumulative()) | {"sum": histogram.sum, "count": sum(histogram.counts)}
        case number:
            return number
