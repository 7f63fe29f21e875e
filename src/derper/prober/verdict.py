"""The output of `-once`: a table on a terminal, JSON for a script, else the Go prober's lines."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from derper import log
from derper.govalues import format_duration
from derper.prober.advice import advice
from derper.prober.probe import Probe, Run


def exit_code(probes: Sequence[Probe]) -> int:
    """Return 1 if any probe failed."""
    return 0 if all(probe.record.last and probe.record.last.ok for probe in probes) else 1


def show(probes: Sequence[Probe], *, as_json: bool) -> None:
    """Print the results of probes that ran once each."""
    rows = [(probe, probe.record.last) for probe in sorted(probes, key=lambda probe: probe.name)]
    ended = [(probe, run) for probe, run in rows if run is not None]
    if as_json:
        sys.stdout.write(f"{json.dumps(_members(ended), indent=1)}\n")
    elif sys.stdout.isatty():
        Console().print(_table(ended))
    else:
        _lines(ended)


def latency(seconds: float) -> str:
    """Return a latency in the Go prober's format: `11.642535ms`."""
    return format_duration(round(seconds * 1e9))


def _lines(rows: Sequence[tuple[Probe, Run]]) -> None:
    """Log the successful probes, then the failed ones, one per line, in the Go prober's format for scripts."""
    stamp = datetime.now(UTC).astimezone().strftime("%Y/%m/%d %H:%M:%S")
    for word, wanted in (("good", True), ("bad", False)):
        for probe, run in rows:
            if run.ok is wanted:
                log.verbatim(f"{stamp} {word}: {probe.name}: {' '.join((run.error or latency(run.seconds)).split())}")


def _members(rows: Sequence[tuple[Probe, Run]]) -> dict[str, Any]:
    return {
        "good": sum(run.ok for _, run in rows),
        "bad": sum(not run.ok for _, run in rows),
        "probes": [
            {
                "name": probe.name,
                "class": probe.kind,
                "labels": probe.all_labels,
                "good": run.ok,
                "seconds": round(run.seconds, 6),
                "error": run.error,
            }
            for probe, run in rows
        ],
    }


def _table(rows: Sequence[tuple[Probe, Run]]) -> Table:
    bad = sum(not run.ok for _, run in rows)
    table = Table(title=f"{len(rows)} probes, {bad} bad" if bad else f"{len(rows)} probes, all good", box=None)
    table.add_column("")
    table.add_column("probe", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    table.add_column("what is wrong")
    for probe, run in sorted(rows, key=lambda row: row[1].ok):
        mark = Text("good", "green") if run.ok else Text("bad", "bold red")
        wrong = Text("" if run.ok else f"{run.error}\n{advice(probe.kind)}")
        table.add_row(mark, Text(probe.name), f"{run.seconds * 1_000:,.0f} ms", wrong)
    return table
