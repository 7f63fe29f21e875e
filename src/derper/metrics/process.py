"""Metrics of this process and its machine, from the kernel. Reads `/proc`, so not for the loop's thread."""

import contextlib
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client import ProcessCollector

from derper._version import version
from derper.metrics.exposition import Family, Labelled, Metric, Type
from derper.redaction import redacted

_PROC: Final = Path("/proc")
_COLUMNS: Final = {"receive": 0, "transmit": 8}
"""Columns of /proc/net/dev after the interface's name: received and sent bytes."""

FILE_DESCRIPTORS: Final = Metric("derp_current_file_descriptors", Type.GAUGE, "Open file descriptors")

OF_PROGRAM: Final = (
    _STARTED := Metric("process_start_unix_time", None, "When the program was started, in Unix seconds"),
    _UPTIME := Metric("uptime_sec", Type.COUNTER, "Seconds since then"),
    _BOOTED := Metric("node_boot_time_seconds", None, "When the machine was started, in Unix seconds"),
    _VERSION := Metric("version", None, "Always 1; which program of which version this is", ("version", "binary")),
)
"""Metrics that the Go server's other programs have, too."""

OF_LIBRARY: Final = (
    Metric("process_virtual_memory_bytes", Type.GAUGE, "Bytes of address space in use"),
    Metric("process_resident_memory_bytes", Type.GAUGE, "Bytes of memory in use"),
    Metric("process_start_time_seconds", Type.GAUGE, "When the process was started, in Unix seconds"),
    Metric("process_cpu_seconds_total", Type.COUNTER, "Seconds of processor time, the kernel's for us included"),
    Metric("process_open_fds", Type.GAUGE, "Open file descriptors"),
    Metric("process_max_fds", Type.GAUGE, "File descriptors that may be open"),
    Metric("process_virtual_memory_max_bytes", Type.GAUGE, "Bytes of address space that may be in use"),
    Metric("process_network_receive_bytes_total", Type.COUNTER, "Bytes that came into the network namespace"),
    Metric("process_network_transmit_bytes_total", Type.COUNTER, "Bytes that went out of the network namespace"),
)
"""Metrics that Prometheus's client libraries have for any process."""

_start: Final = time.time()
_start_monotonic: Final = time.monotonic()
_collector: Final = ProcessCollector(registry=None)


def uptime() -> float:
    """Return the seconds since this module was loaded at the server's start, by a monotonic clock."""
    return time.monotonic() - _start_monotonic


def server_families() -> Iterator[Family]:
    """Return the Go server's metrics of the relay process."""
    yield Family(FILE_DESCRIPTORS, _open_files())
    yield from program_families()


def program_families() -> Iterator[Family]:
    """Return the metrics that the Go server's other programs have, too."""
    yield Family(_STARTED, int(_start))
    yield Family(_UPTIME, int(uptime()))
    boot = re.search(r"^btime (\d+)$", _read("stat"), re.MULTILINE)
    if boot:
        yield Family(_BOOTED, int(boot[1]))
    yield Family(_VERSION, Labelled(_VERSION.labels, {(version(), _binary()): 1}))


def library_families() -> Iterator[Family]:
    """Return the process metrics of Prometheus' client libraries."""
    values = {sample.name: sample.value for metric in _collector.collect() for sample in metric.samples}
    values["process_virtual_memory_max_bytes"] = _most_memory()
    values |= {f"process_network_{way}_bytes_total": total for way, total in _network_bytes().items()}
    for metric in OF_LIBRARY:
        if metric.name in values:
            yield Family(metric, values[metric.name])


def command_line() -> list[str]:
    """Return the command line without secrets."""
    return list(map(redacted, sys.argv))


def _open_files() -> int:
    return len(os.listdir(_PROC / "self/fd"))  # noqa: PTH208  avoids 100,000 path objects


def _binary() -> str:
    program = Path(sys.argv[0])
    return program.parent.name if program.name == "__main__.py" else program.name


def _most_memory() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return float(2**64 if soft == resource.RLIM_INFINITY else soft)


def _network_bytes() -> dict[str, int]:
    """Return the sums over the network namespace's interfaces, loopback included."""
    rows = [line.partition(":")[2].split() for line in _read("self/net/dev").splitlines()[2:]]
    return {way: sum(int(row[at]) for row in rows) for way, at in _COLUMNS.items()} if rows else {}


def _read(name: str) -> str:
    with contextlib.suppress(OSError):
        return (_PROC / name).read_text()
    return ""
