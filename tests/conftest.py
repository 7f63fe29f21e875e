"""What every test shares."""

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A pause of the machine is no failure of the code: what must be bounded is tested by what it does, not by the clock.
settings.register_profile("derper", deadline=None)
settings.load_profile("derper")

# Test folders are not packages; these hold servers and clients that tests elsewhere start and talk to, too.
SHARED = ("house", "interop", "mesh", "prober", "server", "server/admission", "tools", "websocket")
sys.path += [str(Path(__file__).parent / folder) for folder in SHARED]

# Their assertions are told as a test's own are.
pytest.register_assert_rewrite("both")


@pytest.fixture
def one_thread_collects() -> Iterator[None]:
    """Keep the collector from running in whichever thread: a stepped world may be let go only where it was made."""
    gc.disable()
    yield
    gc.collect()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a test that cannot run here fail where CI runs: nobody looks for what was skipped there."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
    return report
