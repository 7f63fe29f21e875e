"""The CA that tests share. A test module asks for it with `pytest_plugins = ["ca"]`."""

from collections.abc import Iterator

import pytest
from pebble import Pebble


@pytest.fixture(scope="session")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    """Yield one Pebble for all tests; it rejects many nonces."""
    with Pebble(tmp_path_factory.mktemp("pebble"), nonce_rejects=30) as started:
        yield started
