"""Small charts of a probe's history as inline SVG: the duration and result of each run. Pure."""

from collections.abc import Sequence
from typing import Final

from derper.prober.probe import HISTORY, Run

WIDTH: Final = 180
HEIGHT: Final = 32
_STEP: Final = WIDTH / HISTORY
_LEAST: Final = 2.0  # minimum height of a bar, so that a quick run is visible


def history(runs: Sequence[Run]) -> str:
    """Return one bar per run, the latest at the right; a failed run has full height, in the colour of failure."""
    slowest = max((run.seconds for run in runs if run.ok), default=0.0)
    bars = []
    for at, run in enumerate(runs, HISTORY - len(runs)):
        height = max(_LEAST, run.seconds / slowest * HEIGHT) if run.ok and slowest else HEIGHT
        kind = "g" if run.ok else "b"
        bars.append(
            f'<rect class="{kind}" x="{at * _STEP:.1f}" y="{HEIGHT - height:.1f}" '
            f'width="{_STEP - 0.5:.1f}" height="{height:.1f}"/>'
        )
    failed = sum(not run.ok for run in runs)
    summary = f"{len(runs)} runs, {failed} failed, slowest good one {slowest * 1_000:,.1f} ms"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{summary}">'
        f"<title>{summary}</title>{''.join(bars)}</svg>"
    )
