"""Ten minutes of clients that connect, send and disconnect: checks that the server's memory does not grow.

`python bench/soak.py --help`. After the last client has left, the server's private memory may be at most 5 % plus 2 MB
above its value at one tenth of the run. If it is more, the exit code is 1.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import machine
from compare import MOST_FILES, build_generator
from generator import Bench, LoadError
from loads import ClosedLoop, Logins, private_kb
from machine import Cores, MachineError
from servers import OURS, PartError, RelayError, running

SHARE, MORE_KB = 1.05, 2_048


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="(%(default)s)")
    seconds = parser.parse_args(words).minutes * 60
    try:
        machine.allow_files(MOST_FILES)
        bench = Bench(build_generator(), Cores.choose(), seconds=3.0, warmup=0.3, settle=2.0)
        first, last = soak(bench, seconds)
    except (LoadError, MachineError, PartError, RelayError) as error:
        print(error, file=sys.stderr)
        return 1
    most = first * SHARE + MORE_KB
    print(f"private memory: {first:,.0f} kB after a tenth of the time, {last:,.0f} kB at the end, at most {most:,.0f}")
    return int(last > most)


def soak(bench: Bench, seconds: float) -> tuple[float, float]:
    """Return private memory in kB without clients: after a tenth of the time, and at the end."""
    loads = (
        Logins(at_once=32, total=1_000),
        ClosedLoop(pairs=50, in_flight=4),
        ClosedLoop(pairs=10, in_flight=16, size=16_384),
    )
    first: float | None = None
    with running(OURS, (bench.cores.server,), tls=True, nodes=1) as nodes:
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < seconds:
            if first is None and elapsed >= seconds / 10:
                first = _at_rest(nodes[0].pid, bench)
            for load in loads:
                load.measure(nodes, bench)
            print(f"{elapsed:4.0f} s: {private_kb(nodes[0].pid):,.0f} kB", file=sys.stderr, flush=True)
        last = _at_rest(nodes[0].pid, bench)
    if first is None:
        raise LoadError("no round was over after a tenth of the time; soak for longer")
    return first, last


def _at_rest(pid: int, bench: Bench) -> float:
    time.sleep(bench.settle)
    return private_kb(pid)


if __name__ == "__main__":
    sys.exit(main())
