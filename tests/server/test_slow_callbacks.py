"""The check for a blocked event loop, part of all tests of the server, finds a blocking callback."""

import time
from pathlib import Path

import pytest
import slowcallbacks
from live import Client, config_of, serving

from derper.server.connection_log import ConnectionLog


async def test_a_callback_of_the_server_that_blocks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowcallbacks, "BOUND_SECONDS", 0.05)
    monkeypatch.setattr(ConnectionLog, "logged_in", lambda *_, **__: time.sleep(0.2))
    with pytest.raises(AssertionError, match=r"Executing <.*took"):
        async with serving(config_of(tmp_path)) as server:
            await Client.log_in(server)
