"""Metric families, and the Prometheus text that they are written as (docs/protocol/metrics.md). No I/O, no clock.

The client library's own writer is not used: it puts `_total` behind each counter's name and a `# HELP` before every
family, and the names and lines that dashboards know have neither.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Self, TypeAlias

Number: TypeAlias = int | float


class Type(StrEnum):
    """What a family's `# TYPE` line says."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Labelled:
    """One number for each set of label values."""

    labels: tuple[str, ...]  # their names, in the order in which they are written
    values: Mapping[tuple[str, ...], Number]

    @classmethod
    def by(cls, label: str, values: Mapping[str, Number]) -> Self:
        """Make the samples of one label."""
        return cls((label,), {(at,): value for at, value in values.items()})


@dataclass(frozen=True, slots=True)
class Histogram:
    """How values spread."""

    bounds: tuple[int, ...]  # the buckets' upper bounds, which belong to them
    counts: tuple[int, ...]  # of each bucket alone, and one more without a bound
    sum: int

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """Return each bound with the number of values up to it; the last counts all."""
        return zip([*map(str, self.bounds), "+Inf"], accumulate(self.counts), strict=True)


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of which each has labels of its own, and where it is part of a histogram a suffix to the name."""

    rows: tuple[tuple[str, Mapping[str, str], Number], ...]


Value: TypeAlias = Number | Labelled | Histogram | Samples


@dataclass(frozen=True, slots=True)
class Metric:
    """What a family is, whatever its samples are now. docs/metrics.md is written from all there are."""

    name: str
    type: Type | None  # None: no `# TYPE` line
    told: str  # what it counts, for operators
    labels: tuple[str, ...] = ()  # their names; those of a histogram's parts go without saying
    has_help: bool = False  # whether `told` is a `# HELP` line, too


@dataclass(frozen=True, slots=True)
class Family:
    """A metric as it is now."""

    metric: Metric
    value: Value


def text(families: Iterable[Family]) -> str:
    """Write families as Prometheus reads them."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    metric, name = family.metric, family.metric.name
    if metric.type is not None:
        yield f"# TYPE {name} {metric.type}"
    if metric.has_help:
        yield f"# HELP {name} {metric.told}"
    match family.value:
        case Labelled(labels, values):
            for at, value in values.items():
                yield _sample(name, zip(labels, at, strict=True), value)
        case Histogram() as histogram:
            for bound, count in histogram.cumulative():
                yield _sample(f"{name}_bucket", [("le", bound)], count)
            yield _sample(f"{name}_sum", (), histogram.sum)
            yield _sample(f"{name}_count", (), sum(histogram.counts))
        case Samples(rows):
            for suffix, labels_, value in rows:
                yield _sample(f"{name}{suffix}", labels_.items(), value)
        case value:
            yield _sample(name, (), value)


def _sample(name: str, labels: Iterable[tuple[str, str]], value: Number) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
    return f"{name}{{{inside}}} {value!r}" if inside else f"{name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
