"""A flood of handshakes at a relay whose certificate is costly to sign with."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from beside import TLS_WIRES, Beside, Target, Wire, for_seconds
from relays import HOST, Relay

pytest_plugins = ["attacktable"]

KEYS = {"ECDSA P-256": ("ec", "ec_paramgen_curve:P-256"), "RSA 2048": ("rsa:2048",), "RSA 4096": ("rsa:4096",)}


@pytest.fixture(scope="module", params=KEYS)
def certificate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The kind of key, and a folder with a certificate for it; an RSA key of 4096 bits takes seconds to make."""
    folder = tmp_path_factory.mktemp("certificate")
    algorithm, *options = KEYS[request.param]
    subprocess.run(
        [
            "openssl", "req", "-x509", "-nodes", "-days", "90", "-newkey", algorithm,
            *(word for option in options for word in ("-pkeyopt", option)),
            "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=IP:{HOST}",
            "-keyout", str(folder / f"{HOST}.key"), "-out", str(folder / f"{HOST}.crt"),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return request.param, folder


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_a_flood_of_handshakes(beside: Beside, certificate: tuple[str, Path], wire: Wire) -> None:
    key, files = certificate

    def start(kind: type[Relay], folder: Path, flags: Sequence[str]) -> Relay:
        shutil.copytree(files, folder / "certs")
        return kind(folder, tls=True, flags=flags)

    def attack(target: Target) -> str:
        door, count = target.door, 0
        for _ in for_seconds():
            door.connect().reset()
            count += 1
        return f"{count} handshakes"

    beside(f"handshakes without end, {key} certificate", attack, wire=wire, start=start).ours.is_unharmed()
