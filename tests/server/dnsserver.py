"""A real DNS server on this machine, with the names that a test defines."""

import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import dns.resolver
from dns.asyncresolver import Resolver

HOST: Final = "127.0.0.1"
_READY: Final = "ready.dns.test"


@contextmanager
def dns_server(flags: Iterable[str]) -> Iterator[int]:
    """Serve the names in dnsmasq's flags, and no others; yield the port."""
    port = _free_port()
    fixed = ("--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts", "--user=root")
    command = ["dnsmasq", *fixed, f"--port={port}", f"--listen-address={HOST}", "--bind-interfaces"]
    with subprocess.Popen([*command, f"--host-record={_READY},{HOST}", *flags]) as process:
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.terminate()


def _free_port() -> int:
    """Return a port that is free for UDP and TCP, also of connections in TIME_WAIT."""
    while True:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams, suppress(OSError):
            stream.bind((HOST, 0))
            port: int = stream.getsockname()[1]
            datagrams.bind((HOST, port))
            return port


def resolver_at(port: int) -> Resolver:
    """Return a resolver that uses only this server."""
    resolver = Resolver(configure=False)
    resolver.nameservers, resolver.port = [HOST], port
    resolver.timeout = 1.0
    return resolver


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port, resolver.timeout = [HOST], port, 0.1
    for _ in range(100):
        with suppress(dns.resolver.LifetimeTimeout, dns.resolver.NoNameservers):
            resolver.resolve(_READY, lifetime=0.2)
            return
        assert process.poll() is None, "dnsmasq ended"
    raise AssertionError("dnsmasq does not answer")
