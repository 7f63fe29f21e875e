"""The fixtures with servers for tests.

A test module loads them with `pytest_plugins = ["hall"]`. Servers are shared by all tests of a run and started for the
first test that uses them; at the end each must stop cleanly.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import KINDS, LOGIN_SECONDS, SETUP_SECONDS, TWO_KINDS, Kind, Recorded, Server, vectors

from derper.protocol.keys import MeshKey, NodePrivate

Make = Callable[[Path], Server]


class Hall:
    """The servers of one test run, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[str, Server] = {}
        self._started = 0

    def get(self, name: str, make: Make) -> Server:
        """Return the server with this name; start a new one if there is none or a test has stopped it."""
        server = self._servers.get(name)
        if server is None or not server.alive:
            self._started += 1
            server = self._servers[name] = make(self._folder / f"{name}-{self._started}").start()
        return server

    def empty(self) -> None:
        """Stop all servers."""
        codes = {name: server.stop() for name, server in self._servers.items() if server.alive}
        assert not any(codes.values()), f"exit codes after SIGTERM: {codes}"


@pytest.fixture(scope="session")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    hall = Hall(tmp_path_factory.mktemp("servers"))
    yield hall
    hall.empty()


def _tuned(hall: Hall, kind: Kind) -> Server:
    """Return a server with short timeouts and the keys of the recorded frames."""
    keys = vectors("frames")["keys"]
    return hall.get(
        f"tuned-{kind}",
        lambda folder: Server(
            folder, "-shards", str(kind.shards),
            tls=kind.tls,
            private=NodePrivate(bytes.fromhex(keys["server_private"])),
            mesh_key=MeshKey.from_text(keys["mesh_key"]),
            tuning={"setup_timeout": SETUP_SECONDS, "login_timeout": LOGIN_SECONDS},
        ),
    )  # fmt: skip


@pytest.fixture(params=KINDS, ids=str)
def relay(request: pytest.FixtureRequest, hall: Hall) -> Server:
    """A server with short timeouts; plain and TLS, one shard and two."""
    return _tuned(hall, request.param)


@pytest.fixture(params=TWO_KINDS, ids=str)
def either_relay(request: pytest.FixtureRequest, hall: Hall) -> Server:
    """Two kinds of `relay`, for slow tests."""
    return _tuned(hall, request.param)


@pytest.fixture(scope="session")
def recorded(hall: Hall) -> Recorded:
    """`python -m derper` without changes, with the keys of the recorded logins and HTTP exchanges."""
    keys = vectors("login")["client_info"]

    def get(name: str, *flags: str, tls: bool = False, with_mesh_key: bool = True, private: str = "") -> Server:
        return hall.get(
            f"{name}-tls" if tls else name,
            lambda folder: Server(
                folder,
                *flags,
                tls=tls,
                private=NodePrivate(bytes.fromhex(private or keys["server_private"])),
                mesh_key=MeshKey.from_text(keys["server_mesh_key"]) if with_mesh_key else None,
            ),
        )

    return get


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def two_shards(request: pytest.FixtureRequest, hall: Hall) -> Server:
    """A server like `relay`, with two shards."""
    return _tuned(hall, Kind(tls=request.param, shards=2))


@pytest.fixture
def plain_relay(hall: Hall) -> Server:
    """A server like `relay`, without TLS and with one shard, for tests that depend on neither."""
    return _tuned(hall, Kind(tls=False, shards=1))
