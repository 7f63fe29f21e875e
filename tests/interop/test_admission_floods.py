"""A flood of logins while a slow controller rejects all: neither server admits any."""

from pathlib import Path

import pytest
from flood import ADMITTED, controller_that_refuses, log_in_all
from relays import GoDerper, OurDerper, Relay


@pytest.mark.parametrize("server", [GoDerper, OurDerper], ids=lambda server: server.name)
async def test_a_flood_of_logins_at_a_slow_controller_admits_none(server: type[Relay], tmp_path: Path) -> None:
    with (
        controller_that_refuses(after=0.5) as controller,
        server(tmp_path, flags=("-verify-client-url", controller)) as relay,
    ):
        became = await log_in_all(relay.port, 3_000)
    assert became[ADMITTED] == 0, became
    assert became.total() == 3_000
