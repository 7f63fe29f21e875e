"""Writes docs/metrics.md, all metrics of the programs, from their families.

`python tools/metrics_page.py` writes it; `--check` returns exit code 1 if it is out of date.
"""

import re
import sys
from collections.abc import Sequence
from typing import Final

import generated

from derper.metrics import process
from derper.metrics.exposition import Metric
from derper.prober import metrics as prober
from derper.server.debug import metrics as server

PAGE: Final = generated.ROOT / "docs" / "metrics.md"
REFERENCE: Final = generated.ROOT / "docs" / "protocol" / "metrics.md"

HEAD: Final = """# All metrics

This page lets you look up each metric of `/debug/varz` ([access rules](protocol/http.md#debug-access)).
[packaging/monitoring](../packaging/monitoring/README.md) has alerts and a dashboard that use them.

- *Ours* marks metrics that Go's programs do not have.
- *Untyped* metrics have no `# TYPE` line, as in Go's programs.
- A sample of a probe has only the labels that apply to the probe.

`tools/metrics_page.py` writes this page from the definitions in the programs.
"""


def page() -> str:
    """Return the whole page."""
    text = REFERENCE.read_text("utf-8")
    known = {
        *re.findall(r"`(\w+)`", "".join(row for row in text.splitlines(keepends=True) if "| ours: " not in row)),
        *(f"derpprobe_{name}" for name in re.findall(r"`(\w+)`", text.partition("## /debug/varz of derpprobe")[2])),
    }
    of_prober = (*prober.METRICS, *process.OF_PROGRAM, *process.OF_LIBRARY)
    return "\n".join([HEAD, section("derper", server.METRICS, known), section("derpprobe", of_prober, known)])


def section(program: str, metrics: Sequence[Metric], known: set[str]) -> str:
    """Return the table of one program; `known` are the families that the Go program has, too."""
    rows = [row(metric, ours=metric.name not in known) for metric in metrics]
    return generated.section(program, ("name", "type", "labels", "what it is"), rows)


def row(metric: Metric, *, ours: bool) -> tuple[str, str, str, str]:
    """Return a family's row."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    kind = str(metric.type) if metric.type else "untyped"
    return f"`{metric.name}`", kind, labels, f"{metric.help_text}{' *(ours)*' if ours else ''}"


if __name__ == "__main__":
    sys.exit(generated.main(PAGE, page(), sys.argv[1:]))
