"""How long a start takes: `derper -version`, and from the start of the process to its listening port.

    .venv/bin/python bench/startup.py [--runs 9] [--busy 4]

`--busy` starts this number of processes that use all processors meanwhile. The table has the lowest and the median time
of the runs, in milliseconds.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

_SPIN: Final = "while True: pass"
_SECONDS: Final = 60.0


def run(command: list[str]) -> float:
    """Return the seconds that a command takes."""
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=_SECONDS)
    return time.monotonic() - began


def start(derper: list[str]) -> float:
    """Return the seconds from the start of a server to the line that says that it serves."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        flags = ["-a", "127.0.0.1:0", "-stun=false", "-c", str(Path(folder) / "derper.key")]
        with subprocess.Popen([*derper, *flags], stderr=subprocess.PIPE, text=True) as server:
            if not any("event=serving" in line for line in server.stderr or ()):
                raise SystemExit("the server ended before it served")
            took = time.monotonic() - began
            server.terminate()
            server.communicate(timeout=_SECONDS)
    return took


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep the processors busy."""
    spinning = [subprocess.Popen([sys.executable, "-c", _SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--busy", type=int, default=0)
    words = parser.parse_args()
    derper = [sys.executable, "-m", "derper"]
    measured: dict[str, Callable[[], float]] = {
        "an empty Python program": lambda: run([sys.executable, "-c", ""]),
        "derper -version": lambda: run([*derper, "-version"]),
        "derper, until it serves": lambda: start(derper),
    }
    sys.stdout.write("| start | lowest ms | median ms |\n| --- | --- | --- |\n")
    with busy(words.busy):
        for name, measure in measured.items():
            times = [measure() * 1_000 for _ in range(words.runs)]
            sys.stdout.write(f"| {name} | {min(times):.0f} | {median(times):.0f} |\n")


if __name__ == "__main__":
    main()
