"""`derper` and `derper-client` are installed, alone and together, removed, and used."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import pytest
from environment import (
    CLIENT,
    OFFLINE,
    PIP,
    PROJECTS,
    SERVER,
    Environment,
    InstalledDerper,
    build,
    closure,
    requirements,
    run,
)
from relays import OurDerper, Relay
from tracked import ROOT

FIRST_PACKET: Final = str(ROOT / "examples/first_packet.py")
WHERE: Final = (
    "import derper.client, derper.protocol; print(derper.client.__file__, derper.protocol.__file__, sep='\\n')"
)
USER: Final = Path(__file__).with_name("user.py")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels; the client's is built without Rust."""
    folder = tmp_path_factory.mktemp("wheels")
    tools = str(Path(sys.executable).parent)
    # With the Makefile's settings, so that the extension is not compiled again.
    target = os.environ.get("CARGO_TARGET_DIR", str(ROOT / "target"))
    ours = {"PATH": f"{tools}:{os.environ['PATH']}", "CARGO_TARGET_DIR": target, "PYO3_PYTHON": sys.executable}
    without_rust = {name: value for name, value in os.environ.items() if not name.startswith(("CARGO", "RUST"))}
    return {
        SERVER: build(PROJECTS[SERVER], folder / SERVER, os.environ | ours),
        CLIENT: build(PROJECTS[CLIENT], folder / CLIENT, without_rust | {"PATH": tools}),
    }


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    with OurDerper(tmp_path_factory.mktemp("relay"), tls=True) as relay:
        yield relay


def send_a_packet(environment: Environment, relay: Relay) -> None:
    assert "it arrived" in environment.run(FIRST_PACKET, relay.url, relay.pin)


def library_of(environment: Environment) -> set[str]:
    """Return the folder below site-packages of each package of the library."""
    files = environment.run("-c", WHERE).splitlines()
    return {Path(file).relative_to(environment.site).parts[0] for file in files}


def use(environment: Environment, name: str, relay: Relay) -> None:
    """Use a distribution for its purpose: the client sends a packet, the server relays one between two clients."""
    if name == CLIENT:
        send_a_packet(environment, relay)
        return
    assert (environment.bin / "derper").exists()
    with InstalledDerper(environment.folder / "relay", environment) as installed:
        send_a_packet(environment, installed)


def names_in(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_no_file_belongs_to_both(wheels: dict[str, Path]) -> None:
    assert names_in(wheels[SERVER])
    assert names_in(wheels[CLIENT])
    assert names_in(wheels[SERVER]) & names_in(wheels[CLIENT]) == set()


def test_the_client_has_the_whole_library_and_nothing_else(wheels: dict[str, Path]) -> None:
    server = {name for name in names_in(wheels[SERVER]) if name.endswith((".py", ".typed"))}
    client = {name.removeprefix("derper-client/") for name in names_in(wheels[CLIENT])} - {"derper-client.pth"}
    library = {name for name in server if name.startswith(("derper/client/", "derper/protocol/"))}
    beside = {"derper/__init__.py", "derper/py.typed", "derper/errors.py", "derper/certname.py"}
    assert client == library | beside


def test_the_client_alone_is_pure_python_with_few_dependencies(wheels: dict[str, Path]) -> None:
    assert wheels[CLIENT].name.endswith("-py3-none-any.whl")
    needed = closure(requirements(wheels[CLIENT])).keys()
    assert {"aiohttp", "cryptography", "h11", "pynacl"} <= needed
    assert needed & {"acme", "josepy", "requests", "rich", "structlog", "dnspython", "prometheus-client"} == set()
    assert {"acme", "rich", "prometheus-client"} <= closure(requirements(wheels[SERVER])).keys()


def test_both_require_the_same_versions(wheels: dict[str, Path]) -> None:
    assert set(map(str, requirements(wheels[CLIENT]))) <= set(map(str, requirements(wheels[SERVER])))
    assert len({wheel.name.split("-")[1] for wheel in wheels.values()}) == 1


def test_the_client_works_alone(wheels: dict[str, Path], relay: Relay, tmp_path: Path) -> None:
    environment = Environment(tmp_path, closure(requirements(wheels[CLIENT])).values())
    environment.install(wheels[CLIENT])
    use(environment, CLIENT, relay)


@pytest.mark.parametrize("removed", [SERVER, CLIENT])
@pytest.mark.parametrize("order", [(SERVER, CLIENT), (CLIENT, SERVER)], ids=" then ".join)
def test_either_works_after_the_other_was_removed(
    order: tuple[str, str], removed: str, wheels: dict[str, Path], relay: Relay, tmp_path: Path
) -> None:
    environment = Environment(tmp_path, closure(requirements(wheels[SERVER])).values())
    for name in order:
        environment.install(wheels[name])
    assert library_of(environment) == {"derper"}, "the server's own copy is used while it is installed"
    environment.uninstall(removed)
    kept = CLIENT if removed == SERVER else SERVER
    assert library_of(environment) == {"derper" if kept == SERVER else "derper-client"}
    use(environment, kept, relay)


def test_the_client_works_from_a_plain_folder_on_the_path(wheels: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    run(*PIP, "install", *OFFLINE, "--target", str(folder), str(wheels[CLIENT]))
    found = run(sys.executable, "-c", WHERE, env=os.environ | {"PYTHONPATH": str(folder / "derper-client")})
    assert all(Path(file).is_relative_to(folder) for file in found.splitlines())


@pytest.mark.parametrize("name", [SERVER, CLIENT])
def test_a_typed_program_passes_mypy_strict(name: str, wheels: dict[str, Path], tmp_path: Path) -> None:
    environment = Environment(tmp_path, closure(requirements(wheels[name])).values())
    environment.install(wheels[name])
    program = tmp_path / "user.py"
    program.write_text(USER.read_text())
    mypy = (sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", str(environment.python))
    cache = ("--cache-dir", str(tmp_path / "cache"))
    assert "no issues found" in run(*mypy, *cache, str(program), cwd=tmp_path)
    program.write_text(USER.read_text().replace("packet: bytes", "packet: str"))
    with pytest.raises(AssertionError, match="Incompatible types in assignment"):
        run(*mypy, *cache, str(program), cwd=tmp_path)
