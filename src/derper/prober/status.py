"""The status page: each probe, its state and history, and advice for failed ones. Pure: probes in, HTML out.

No script, no outside resource. Dark mode follows the reader's system. On a phone each row becomes a card. Failed probes
are first.
"""

import html
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from derper.govalues import format_duration
from derper.prober import charts
from derper.prober.advice import advice
from derper.prober.probe import Probe, Run, Status
from derper.prober.verdict import latency

_REFRESH_SECONDS: Final = 15
_LONG: Final = 0.1  # seconds

_STYLE: Final = """
:root { color-scheme: light dark; --ground: #fbfbfc; --card: #fff; --line: #e2e4e9; --text: #1b1e24; --faint: #626977;
  --good: #1a7f4b; --bad: #c62f2f; --wash: #fdf0f0; }
@media (prefers-color-scheme: dark) { :root { --ground: #14161a; --card: #1c1f25; --line: #30343d; --text: #e7e9ee;
  --faint: #9aa1af; --good: #4cc38a; --bad: #ff7b72; --wash: #2a1c1e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 82rem; padding: 1.5rem 1rem 4rem; background: var(--ground); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; font-weight: 600; margin: 0; }
header p { margin: .2rem 0 1.2rem; color: var(--faint); }
table { width: 100%; border-collapse: collapse; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
th { text-align: left; font-weight: 500; color: var(--faint); font-size: .8rem; }
th, td { padding: .55rem .7rem; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; }
.name { font-family: ui-monospace, monospace; font-size: .85rem; overflow-wrap: anywhere; }
.small { font-size: .78rem; color: var(--faint); }
.succeeded, .running { color: var(--good); font-weight: 600; } .failed { color: var(--bad); font-weight: 600; }
.unknown { color: var(--faint); }
tr.bad > td { background: var(--wash); } .error { color: var(--bad); overflow-wrap: anywhere; }
td.right { font-variant-numeric: tabular-nums; }
td.history { min-width: 12.7rem; } td.name { min-width: 16rem; } td.recent { white-space: nowrap; }
svg .g { fill: var(--good); } svg .b { fill: var(--bad); } svg { display: block; max-width: 100%; }
a { color: inherit; } a.run { font-size: .78rem; color: var(--faint); }
@media (max-width: 50rem) {
  thead { display: none; } table, tbody, tr, td { display: block; width: 100%; }
  table { border: 0; background: none; }
  tr { border: 1px solid var(--line); border-radius: 8px; margin-bottom: .7rem; background: var(--card);
    overflow: hidden; }
  td { border-top: 0; padding: .3rem .8rem; }
  td:empty { display: none; } td[data-of]::before { content: attr(data-of) " "; color: var(--faint);
    font-size: .78rem; } }
"""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="refresh"
content="{refresh}"><title>{title}</title><style>{style}</style></head>
<body>
<header><h1>DERP Prober</h1><p>{summary} &middot; {now} UTC &middot; up {uptime} &middot;
<a href="/debug/">debug</a></p></header>
<table>
<thead><tr><th>Probe</th><th>Interval</th><th>Last result</th><th>Latency</th><th>Last 10</th><th>History</th>
<th>What is wrong</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


def page(probes: Sequence[Probe], now: datetime, *, may_run: bool, uptime: str) -> str:
    """Return the page; `may_run`: the reader may start probes."""
    bad = sum(probe.status is Status.FAILED for probe in probes)
    waiting = sum(probe.status is Status.UNKNOWN for probe in probes)
    summary = f"{len(probes)} probes, {bad} failed" + (f", {waiting} not run yet" if waiting else "")
    ordered = sorted(probes, key=lambda probe: (probe.status is not Status.FAILED, probe.name))
    return _PAGE.format(
        title=f"{bad} failed: DERP Prober" if bad else "DERP Prober",
        refresh=_REFRESH_SECONDS,
        style=_STYLE,
        summary=summary,
        now=f"{now:%F %T}",
        uptime=html.escape(uptime),
        rows="\n".join(_row(probe, now, may_run=may_run) for probe in ordered),
    )


def _row(probe: Probe, now: datetime, *, may_run: bool) -> str:
    record, last, status = probe.record, probe.record.last, probe.status
    shown_labels = ", ".join(f"{name}={value}" for name, value in probe.all_labels.items() if name != "name")
    where = f"{probe.kind}, {hostname}" if (hostname := probe.labels.get("hostname")) else str(probe.kind)
    run = ""
    if may_run and probe.interval is not None:
        run = f'<a class="run" href="/debug/probe-run?name={quote(probe.name, safe="/")}">Run Probe</a>'
    cells = [
        ("", "name", f"{html.escape(probe.name)}{_small(where, shown_labels)}{run}"),
        ("Interval", "right", "Continuous" if probe.interval is None else _duration(probe.interval)),
        ("Last result", "", f'<span class="{status}">{status}</span>{_ended(last, now)}'),
        ("Latency", "right", _latency(probe)),
        ("Last 10", "right recent", _recent(probe)),
        ("", "history", charts.history(list(record.history)) if record.history else ""),
        ("", "", _advice_for(probe, now)),
    ]
    text = "".join(_cell(of, kind, content) for of, kind, content in cells)
    return f'<tr class="bad">{text}</tr>' if status is Status.FAILED else f"<tr>{text}</tr>"


def _cell(of: str, kind: str, content: str) -> str:
    attributes = (f' class="{kind}"' if kind else "") + (f' data-of="{of}"' if of else "")
    return f"<td{attributes}>{content}</td>"


def _latency(probe: Probe) -> str:
    last = probe.record.last
    took = _brief(last.seconds) if last and last.ok and probe.interval is not None else "n/a"
    measured = probe.measure.describe() if probe.measure else ""
    return took + (_small(measured) if measured else "")


def _small(text: str, more: str = "") -> str:
    title = f' title="{html.escape(more)}"' if more else ""
    return f'<div class="small"{title}>{html.escape(text)}</div>'


def _recent(probe: Probe) -> str:
    record = probe.record
    if not record.recent:
        return ""
    median = _small(f"median {_brief(record.median_latency)}") if record.latencies else ""
    return f"{round(record.success_ratio * 100)}% good{median}"


def _advice_for(probe: Probe, now: datetime) -> str:
    last = probe.record.last
    if last is None or last.ok:
        return ""
    if probe.status is Status.RUNNING:
        return _small(f"{_ago(last, now)}: {last.error}")
    return (
        f'<div class="error">{html.escape(last.error)}</div><div class="small">{html.escape(advice(probe.kind))}</div>'
    )


def _ended(last: Run | None, now: datetime) -> str:
    return _small("never ended") if last is None else _small(_ago(last, now), f"{_at(last):%F %T} UTC")


def _ago(last: Run, now: datetime) -> str:
    return f"{_duration(max(0, int((now - _at(last)).total_seconds())))} ago"


def _at(last: Run) -> datetime:
    return datetime.fromtimestamp(last.end, UTC)


def _brief(seconds: float) -> str:
    """Format a latency with three significant digits."""
    return latency(round(seconds, 3 if seconds >= _LONG else 5))


def _duration(seconds: float) -> str:
    return format_duration(round(seconds * 1e9))
