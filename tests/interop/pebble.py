"""Pebble, Let's Encrypt's own test server: a CA that checks challenges at our ports, started by the test.

Its DNS server resolves every name to 127.0.0.1, and accepts TXT records. Pebble stores nothing: after a restart it is
another CA, with another root and no accounts.
"""

import json
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from os import environ
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.request import Request, urlopen

from authority import Authority
from parts import program
from relays import HOST, START_SECONDS, free_port

DAY: Final = 86_400
PROFILES: Final = {"default": 90 * DAY, "shortlived": 6 * DAY}  # lifetime of certificates in seconds
EAB_KID: Final = "kid-1"
EAB_KEY: Final = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


class Pebble:
    """One CA and its DNS server.

    Args:
        folder: for its files; created if missing.
        profiles: the profiles of certificates by name, with their lifetime in seconds.
        nonce_rejects: the percentage of valid nonces that it rejects.
        binds: it accepts only accounts that are bound to `EAB_KID`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        profiles: Mapping[str, int] = PROFILES,
        nonce_rejects: int = 5,
        binds: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        ports: set[int] = set()
        while len(ports) < 6:
            ports.add(free_port())
        self.http_port, self.tls_port, self._port, self._admin, self._dns, self.records_port = ports
        """Pebble connects to the first two for our challenges."""
        authority = Authority(folder)
        authority.issue(folder, HOST)
        self.roots = authority.file
        self._context = ssl.create_default_context(cafile=str(self.roots))
        self._folder = folder
        self._environment = environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": str(nonce_rejects)}
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "pebble.json").write_text(
            json.dumps(
                {
                    "pebble": {
                        "listenAddress": f"{HOST}:{self._port}",
                        "managementListenAddress": f"{HOST}:{self._admin}",
                        "certificate": str(folder / f"{HOST}.crt"),
                        "privateKey": str(folder / f"{HOST}.key"),
                        "httpPort": self.http_port,
                        "tlsPort": self.tls_port,
                        "externalAccountBindingRequired": binds,
                        "externalAccountMACKeys": {EAB_KID: EAB_KEY} if binds else {},
                        "domainBlocklist": ["blocked.example.test"],
                        "keyAlgorithm": "ecdsa",
                        "profiles": {
                            name: {"description": name, "validityPeriod": life} for name, life in profiles.items()
                        },
                    }
                }
            )
        )

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self._port}/dir"

    @property
    def flags(self) -> Sequence[str]:
        """The flags of a server of ours that gets its certificates here."""
        return (
            *("-acme-directory", self.url, "-acme-directory-ca", str(self.roots)),
            *("-a", f"{HOST}:{self.tls_port}", "-http-port", str(self.http_port), "-tls", "on"),
        )

    def root(self) -> str:
        """The CA's root certificate in PEM."""
        return self._ask(f"https://{HOST}:{self._admin}/roots/0").decode()

    def context(self) -> ssl.SSLContext:
        """Return a TLS context that trusts this CA."""
        context = ssl.create_default_context(cadata=self.root())
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def suggest(self, certificate: str, start: datetime, end: datetime) -> None:
        """Suggest the renewal of a certificate (PEM) between these times."""
        window = {"suggestedWindow": {"start": start.isoformat(), "end": end.isoformat()}}
        wish = {"Certificate": certificate, "ARIResponse": json.dumps(window)}
        self._ask(f"https://{HOST}:{self._admin}/set-renewal-info/", wish)

    def orders(self) -> int:
        """Return the number of orders so far."""
        return self.log().count("Added order ")

    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def start(self) -> Self:
        with (self._folder / "log").open("ab") as log:
            for command in (
                [
                    *(str(program("pebble-challtestsrv")), "-dnsserver", f"{HOST}:{self._dns}"),
                    *("-management", f"{HOST}:{self.records_port}", "-defaultIPv4", HOST, "-defaultIPv6", ""),
                    *("-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""),
                ],
                [
                    *(str(program("pebble")), "-config", str(self._folder / "pebble.json")),
                    *("-dnsserver", f"{HOST}:{self._dns}"),
                ],
            ):
                self._processes.append(
                    subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment)
                )
        for port in (self.records_port, self._port, self._admin):
            self._wait_for(port)
        return self

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        died = [process.args for process in self._processes if process.poll() is not None]
        self.stop()
        assert not died, f"died meanwhile: {died}\n{self.log()[-4000:]}"

    def _ask(self, url: str, wish: Mapping[str, str] | None = None) -> bytes:
        request = Request(url, None if wish is None else json.dumps(wish).encode())  # noqa: S310  our own https
        with urlopen(request, timeout=10, context=self._context) as answer:  # noqa: S310
            body: bytes = answer.read()
        return body

    def _wait_for(self, port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError(f"Pebble does not listen on port {port}:\n{self.log()[-4000:]}")
