"""Metric families, and their Prometheus text (docs/protocol/metrics.md). No I/O, no clock.

The client library's own writer is not used. It appends `_total` to each counter's name and writes a `# HELP` before
every family; the names and lines that dashboards know have neither.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Self, TypeAlias

Number: TypeAlias = int | float


class Type(StrEnum):
    """The type in a family's `# TYPE` line."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Labelled:
    """Numbers by their label values."""

    labels: tuple[str, ...]  # their names, in output order
    values: Mapping[tuple[str, ...], Number]

    @classmethod
    def by(cls, label: str, values: Mapping[str, Number]) -> Self:
        """Return the samples of one label."""
        return cls((label,), {(at,): value for at, value in values.items()})


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram of values."""

    bounds: tuple[int, ...]  # upper bounds of the buckets, inclusive
    counts: tuple[int, ...]  # per bucket, not cumulative, with one more for values above all bounds
    sum: int

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """Yield each bound with the number of values up to it; the last one counts all."""
        return zip([*map(str, self.bounds), "+Inf"], accumulate(self.counts), strict=True)


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples with individual labels, and for parts of a histogram a suffix to the name."""

    rows: tuple[tuple[str, Mapping[str, str], Number], ...]


Value: TypeAlias = Number | Labelled | Histogram | Samples


@dataclass(frozen=True, slots=True)
class Metric:
    """A family without its samples; docs/metrics.md is generated from all metrics."""

    name: str
    type: Type | None  # None: no `# TYPE` line
    help_text: str  # the help text for operators
    labels: tuple[str, ...] = ()  # their names, except a histogram's own
    has_help: bool = False  # write the help text as a `# HELP` line


@dataclass(frozen=True, slots=True)
class Family:
    """A metric with its current samples."""

    metric: Metric
    value: Value


def text(families: Iterable[Family]) -> str:
    """Return families in Prometheus's text format."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    metric, name = family.metric, family.metric.name
    if metric.type is not None:
        yield f"# TYPE {name} {metric.type}"
    if metric.has_help:
        yield f"# HELP {name} {metric.help_text}"
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
