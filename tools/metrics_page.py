"""Writes docs/metrics.md, all that the programs count, from the families that they are made of.

`python tools/metrics_page.py` writes it anew, `--check` says by its exit code whether it is as it should be.
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

Written by `tools/metrics_page.py` from the definitions of the families that the programs show at `/debug/varz`
([who may see that](protocol/http.md)). Alerts and a dashboard that use them:
[packaging/monitoring](../packaging/monitoring/README.md). *Untyped* ones have no `# TYPE` line, as in the reference.
Those marked *ours* are not the reference's. A probe's samples have those of the labels that say something of it.
"""


def page() -> str:
    """Give the whole page."""
    text = REFERENCE.read_text("utf-8")
    known = {
        *re.findall(r"`(\w+)`", "".join(row for row in text.splitlines(keepends=True) if "| ours: " not in row)),
        *(f"derpprobe_{name}" for name in re.findall(r"`(\w+)`", text.partition("## /debug/varz of derpprobe")[2])),
    }
    of_prober = (*prober.METRICS, *process.OF_PROGRAM, *process.OF_LIBRARY)
    return "\n".join([HEAD, section("derper", server.METRICS, known), section("derpprobe", of_prober, known)])


def section(program: str, metrics: Sequence[Metric], known: set[str]) -> str:
    """Give the table of one program; `known` are the families that the reference has, too."""
    rows = [row(metric, ours=metric.name not in known) for metric in metrics]
    return generated.section(program, ("name", "type", "labels", "what it is"), rows)


def row(metric: Metric, *, ours: bool) -> tuple[str, str, str, str]:
    """Give a family's line."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    kind = str(metric.type) if metric.type else "untyped"
    return f"`{metric.name}`", kind, labels, f"{metric.told}{' *(ours)*' if ours else ''}"


if __name__ == "__main__":
    sys.exit(generated.main(PAGE, page(), sys.argv[1:]))
