"""`derper doctor`: each step of a client's connection to a relay, green, or red with a remedy."""

import argparse
import asyncio
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from derper.cli.tools import common
from derper.client.target import Target
from derper.tools import relays
from derper.tools.doctor import Examination, Finding, State

_AT_ONCE = 4
_MARKS = {State.GOOD: ("ok", "green"), State.RED: ("RED", "bold red"), State.NOTE: ("-", "dim")}


def main(words: Sequence[str]) -> int:
    """Run with the arguments after the tool's name."""
    parser = common.parser("doctor", "Look at a relay from outside, as a client sees it. Works with every DERP relay.")
    parser.add_argument("relay", metavar="HOST|MAP", help="name[:port], address, URL; or a DERP map, a file or a URL")
    parser.add_argument("--region", default="", help="of a map, this region alone, by number or code")
    parser.add_argument(
        "--pin", default="", metavar="CERTNAME", help="for a host, the map's CertName: sha256-raw:… or a name"
    )
    parser.add_argument(
        "--stun-port", type=int, default=0, metavar="PORT", help="for a host, where STUN is (3478); -1 for nowhere"
    )
    parser.add_argument("--http-port", type=int, default=80, metavar="PORT", help="where plain HTTP is (80)")
    parser.add_argument("--key", metavar="FILE", help="log in with this key file, for relays that verify clients")
    return common.finish("doctor", _examine(parser.parse_intermixed_args(words)))


async def _examine(asked: argparse.Namespace) -> int:
    key = common.key_from(asked.key) if asked.key else None
    found = await relays.targets(asked.relay, region=asked.region, cert_name=asked.pin, stun_port=asked.stun_port)
    examinations = [(name, Examination(target, key, asked.http_port)) for name, target in found]
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def look(examination: Examination) -> list[Finding]:
        async with at_once:
            return [finding async for finding in examination.run()]

    out = common.console()
    looking = [asyncio.create_task(look(examination)) for _, examination in examinations]
    report = []
    for (name, examination), task in zip(examinations, looking, strict=True):
        findings = await task
        report.append((name, examination.target, findings))
        if not asked.json:
            _show(out, name, findings)
    if asked.json:
        common.show_json(_as_json(report))
    return 1 if any(finding.state is State.RED for _, _, findings in report for finding in findings) else 0


def _show(out: Console, name: str, findings: list[Finding]) -> None:
    out.print(Text(name, style="bold"))
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        mark, style = _MARKS[finding.state]
        out.print(Text.assemble((f"  {mark:3}", style), f"  {finding.check:{width}}  {finding.text}"))
        if finding.advice:
            out.print(Text(f"  {'':3}  {'':{width}}  → {finding.advice}", style="yellow" if mark == "RED" else "dim"))


def _as_json(report: list[tuple[str, Target, list[Finding]]]) -> dict[str, object]:
    return {
        "good": all(finding.state is not State.RED for _, _, findings in report for finding in findings),
        "relays": [
            {
                "name": name,
                "url": str(target),
                "checks": [
                    {"check": one.check, "state": str(one.state), "says": one.text, "advice": one.advice}
                    for one in findings
                ],
            }
            for name, target, findings in report
        ],
    }
