"""Compares our server with the Go server: the same load on the same core, in turns, and one table of ratios.

`python bench/compare.py --help`; `BENCHMARKING.md` explains the figures and the sources of error.
"""

import argparse
import datetime as dt
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import machine
from generator import Bench, LoadError
from machine import ROOT, Cores, MachineError
from report import Measured, markdown
from rows import ROWS, Row
from servers import PartError, RelayError, go_server, running

LOADGEN: Final = ROOT / "bench" / "loadgen"
MOST_FILES: Final = 12_000  # open files of the server with the most clients
TARGET: Final = ROOT / ".cache" / "loadgen"


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)
    chosen = [row for row in ROWS if not options.rows or row.name in options.rows]
    if options.quick:
        options.runs, options.seconds, options.warmup, options.settle = 1, 1.0, 0.3, 1.0
    try:
        machine.allow_files(MOST_FILES)
        bench = Bench(build_generator(), Cores.choose(), options.seconds, options.warmup, options.settle)
        about = facts(bench, options.runs)
        measured = [measure(row, options.runs, bench, alone=options.alone) for row in chosen]
    except (LoadError, MachineError, PartError, RelayError) as error:
        print(error, file=sys.stderr)
        return 1
    table = markdown(measured, about)
    print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"about": about, "rows": {one.row.name: one.runs for one in measured}}
    (options.out / "compare.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "compare.md").write_text(table)
    return 0


def measure(row: Row, runs: int, bench: Bench, *, alone: bool) -> Measured:
    """Return the figures of a row.

    The servers run in turns, each time a new one, so that other load affects all equally.
    """
    subjects = [row.subject] if alone else [row.subject, row.other]
    measured = Measured(row, {subject.name: [] for subject in subjects})
    cores = (bench.cores.server, bench.cores.generator)
    for run in range(runs):
        for subject in subjects:
            with running(subject, cores, tls=row.load.tls, nodes=row.load.nodes) as nodes:
                figures = row.load.measure(nodes, bench)
            measured.runs[subject.name].append(figures)
            shown = ", ".join(f"{figure.title} {figures[figure.key]:.3g} {figure.unit}" for figure in row.figures)
            print(f"{row.title}: run {run + 1} of {runs}, {subject.name}: {shown}", file=sys.stderr, flush=True)
    return measured


def build_generator() -> Path:
    """Return the load generator's program; build it if necessary.

    Raises:
        MachineError: Rust is missing, or the build failed.
    """
    cargo = shutil.which("cargo")
    if cargo is None:
        raise MachineError("the load generator is built with cargo, which is not on the PATH: https://rustup.rs")
    command = [cargo, "build", "--release", "--locked", "--target-dir", str(TARGET)]
    if subprocess.run(command, cwd=LOADGEN, check=False).returncode != 0:
        raise MachineError(f"`cargo build --release --locked` in {LOADGEN} failed")
    return TARGET / "release" / "derp-loadgen"


def facts(bench: Bench, runs: int) -> dict[str, object]:
    """Return the facts needed to repeat the run or to judge it."""
    go = go_server()
    said = subprocess.run(["go", "version", go], check=True, stdout=subprocess.PIPE, text=True).stdout
    required = (ROOT / "tests" / "interop" / "goserver" / "go.mod").read_text()
    return {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="minutes"),
        "commit": machine.commit(),
        "python": platform.python_version(),
        "go_server": next(words[-1] for words in map(str.split, required.splitlines()) if "tailscale.com" in words),
        "go": said.split()[-1],
        "machine": machine.described(),
        "cores": {"server": bench.cores.server, "generator": bench.cores.generator},
        "runs": runs,
        "seconds": bench.seconds,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument("--rows", type=_row_names, metavar="NAME,…", help=f"only these: {names}")
    parser.add_argument("--alone", action="store_true", help="only our server, without ratios")
    parser.add_argument("--runs", type=int, default=3, help="of each row, for the median (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="measured in each run (%(default)s)")
    parser.add_argument("--warmup", type=float, default=1.5, help="seconds before (%(default)s)")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds before memory is read (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one short run of each row: does it work, no result")
    parser.add_argument(
        "--out", type=Path, default=ROOT / ".cache" / "bench", help="folder of the record (%(default)s)"
    )
    return parser


def _row_names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - {row.name for row in ROWS}:
        raise argparse.ArgumentTypeError(f"no such rows: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    sys.exit(main())
