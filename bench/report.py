"""The table of measured runs: medians, ratios, verdicts, and conditions that cast doubt on them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from generator import Figures
from rows import Figure, Row

# If other processes used more than this share of a core's time, the row is marked.
NOTED_FOREIGN: Final = 0.05
# If the generator used more than this share of its core, it limits the result, not the server.
GENERATOR_FULL: Final = 0.95

HEAD: Final = ("load", "figure", "ours", "the other", "the other ÷ ours", "must", "aim", "verdict")
CONDITIONS: Final = (
    "load",
    "server",
    "packets/s",
    "packets a read",
    "generator a packet",
    "generator's core",
    "others on the server's core",
    "on the generator's",
    "faults",
)


@dataclass(frozen=True)
class Measured:
    """All runs of a row, by server, in the order in which they were taken."""

    row: Row
    runs: dict[str, list[Figures]]

    def median(self, server: str, key: str) -> float | None:
        """Return the median; None if the server was not measured, or has no such figure."""
        values = [figures[key] for figures in self.runs.get(server, []) if key in figures]
        return median(values) if values else None

    def worst(self, key: str) -> float:
        return max((figures.get(key, 0.0) for runs in self.runs.values() for figures in runs), default=0.0)


def markdown(measured: Sequence[Measured], about: Mapping[str, object]) -> str:
    """Return the table of ratios, the table of conditions, and the facts of the measurement."""
    lines = [_line(HEAD), _line("---" for _ in HEAD)]
    lines += [_line(_cells(one, figure)) for one in measured for figure in one.row.figures]
    lines += ["", "Under these conditions (medians; of the others' share of a core, the worst run's):", ""]
    lines += [_line(CONDITIONS), _line("---" for _ in CONDITIONS)]
    lines += [_line(cells) for one in measured for cells in _conditions(one)]
    lines += [""]
    lines += [f"- {key}: {_text(value)}" for key, value in about.items()]
    return "\n".join(lines) + "\n"


def _cells(one: Measured, figure: Figure) -> Iterator[str]:
    row, demand = one.row, figure.demand
    ours, theirs = one.median(row.subject.name, figure.key), one.median(row.other.name, figure.key)
    ratio = theirs / ours if ours and theirs else None
    yield row.title
    yield figure.title
    yield _value(ours, figure.unit)
    yield f"{row.other.name} {_value(theirs, figure.unit)}" if theirs is not None else ""
    yield "" if ratio is None else f"{ratio:.2f} ({_spread(one, figure.key)})"
    yield "" if demand is None else demand.text(demand.must, figure.unit, row.other.name)
    yield "" if demand is None else demand.text(demand.aim, figure.unit, row.other.name)
    yield _verdict(one, figure, ours, theirs)


def _verdict(one: Measured, figure: Figure, ours: float | None, theirs: float | None) -> str:
    demand = figure.demand
    if ours is None or theirs is None or demand is None:
        return ""
    if any(one.worst(key) for key in one.row.faults):
        return "void"
    if "_at_" in figure.key and one.worst(f"short_at_{figure.key.rpartition('_')[2]}"):
        return "void: the generator's limit"
    if demand.met(demand.aim, ours, theirs):
        return "aim met"
    return "met" if demand.met(demand.must, ours, theirs) else "missed"


def _spread(one: Measured, key: str) -> str:
    """Return the ratios of neighbouring runs, which show the noise of the machine."""
    subject, other = one.runs[one.row.subject.name], one.runs[one.row.other.name]
    ratios = [theirs[key] / ours[key] for ours, theirs in zip(subject, other, strict=True) if ours[key]]
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def _conditions(one: Measured) -> Iterator[Iterable[str]]:
    """Yield a line for each server of a row whose load sends packets."""
    for server in one.runs:
        busy = one.median(server, "generator_busy")
        if busy is not None and one.median(server, "packets_per_read") is not None:
            yield (
                one.row.title,
                server,
                f"{one.median(server, 'packets_per_second'):,.0f}",
                f"{one.median(server, 'packets_per_read'):.1f}",
                f"{one.median(server, 'generator_cpu_us_per_packet'):.2f} µs",
                f"{busy:.0%}{', the limit' if busy > GENERATOR_FULL else ''}",
                _foreign(one, server, "foreign_on_server_core"),
                _foreign(one, server, "foreign_on_generator_core"),
                " ".join(f"{one.worst(key):.0f} {key}" for key in one.row.faults if one.worst(key)) or "none",
            )


def _foreign(one: Measured, server: str, key: str) -> str:
    worst = max(figures[key] for figures in one.runs[server])
    return f"{worst:.0%}{' (!)' if worst > NOTED_FOREIGN else ''}"


def _value(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g} {unit}"


def _text(value: object) -> str:
    return ", ".join(f"{key} {inner}" for key, inner in value.items()) if isinstance(value, dict) else str(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
