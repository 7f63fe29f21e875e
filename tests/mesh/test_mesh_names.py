"""One name that resolves to many nodes, as an orchestrator's headless service does: `host:port/dns:name`.

The nodes run in their own network and mount namespaces, where every address of 127.0.0.0/8 is free and the test
defines the names. A real dnsmasq resolves them if it is installed; a hosts file always does, so that the claims are
tested everywhere. Only the nodes are in the namespaces, so the tests read their logs.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest
from authority import Authority
from region import OurNode

CERTIFICATE_NAME = "derp.region.test"
SERVICE = "derp-headless.region.test"
PORT = 8443
RESOLVER = "127.0.0.53"
TUNING = {"mesh": {"LOOK_UP_SECONDS": 0.2}}


class IsolatedNetwork:
    """A namespace with its own loopback and its own names."""

    def __init__(self, folder: Path, resolver: str) -> None:
        self._hosts = folder / "hosts"
        self._resolv = folder / "resolv.conf"
        self._resolver = resolver
        self._processes: list[subprocess.Popen[bytes]] = []
        self.within: Sequence[str] = ()

    def name(self, *addresses: str) -> None:
        """Resolve the service's name to these addresses from now on."""
        lines = [f"{address} {SERVICE}\n" for address in addresses]
        with self._hosts.open("r+" if self._hosts.exists() else "w") as file:
            file.write("127.0.0.1 localhost\n" + "".join(lines))
            file.truncate()
        for process in self._processes[1:]:
            process.send_signal(signal.SIGHUP)  # dnsmasq reads its hosts again

    def __enter__(self) -> Self:
        self.name()
        self._resolv.write_text(f"nameserver {RESOLVER}\noptions timeout:1\n")
        hosts = self._hosts if self._resolver == "hosts" else os.devnull
        script = (
            f"mount --bind {hosts} /etc/hosts && mount --bind {self._resolv} /etc/resolv.conf && "
            "ip link set lo up && echo ready && exec sleep infinity"
        )
        holder = self._start("unshare", "--net", "--mount", "--map-root-user", "sh", "-c", script)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        target = ("--target", str(holder.pid))
        self.within = ("nsenter", "--user", "--net", "--mount", "--preserve-credentials", *target)
        if self._resolver == "dnsmasq":
            dnsmasq = self._start(
                *self.within, "dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
                f"--addn-hosts={self._hosts}", f"--listen-address={RESOLVER}", "--bind-interfaces", "--local-ttl=0",
                "--log-facility=-", "--pid-file",
            )  # fmt: skip
            assert dnsmasq.stdout is not None
            while f"read {self._hosts}" not in (said := dnsmasq.stdout.readline().decode()):
                assert said, "dnsmasq did not start"
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.communicate()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return process


def may_have_namespaces() -> bool:
    command = ("unshare", "--net", "--mount", "--map-root-user", "true")
    return shutil.which("unshare") is not None and subprocess.run(command, check=False).returncode == 0


@pytest.fixture(params=["hosts", "dnsmasq"])
def isolated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IsolatedNetwork]:
    if not may_have_namespaces():
        pytest.skip("this system lets us have no namespaces")
    with IsolatedNetwork(tmp_path, request.param) as isolated:
        yield isolated


def test_every_current_address_of_a_name_is_a_node(isolated: IsolatedNetwork, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    addresses = [f"127.0.0.{number}" for number in (2, 3, 4)]
    nodes = [
        OurNode(
            tmp_path / address, PORT, authority, f"{CERTIFICATE_NAME}:{PORT}/dns:{SERVICE}", "-a", f"{address}:{PORT}",
            "-shards", "1", hostname=CERTIFICATE_NAME, tuning=TUNING, before=isolated.within,
        )
        for address in addresses
    ]  # fmt: skip
    one, two, three = nodes
    with ExitStack() as stack:
        isolated.name(*addresses[:2])
        for node in nodes:
            stack.enter_context(node)
        one.logged(f"mesh link up.*/{addresses[1]}")
        two.logged(f"mesh link up.*/{addresses[0]}")
        for node, address in zip(nodes[:2], addresses, strict=False):
            node.logged(f"not dialling it again.*/{address}")

        isolated.name(*addresses)
        for node in (one, two):
            node.logged(f"mesh link up.*/{addresses[2]}")
        three.logged(f"not dialling it again.*/{addresses[2]}")
        assert addresses[2] not in "".join(line for line in one.log().splitlines() if "not dialled" in line)

        since = one.mark()
        isolated.name(*addresses[1:])
        for key in (two.key, three.key):
            one.logged(f"client gone.*{key}", since)
