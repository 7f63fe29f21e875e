"""Settings and hooks for all tests."""

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A pause of the machine is no failure of the code, so no example has a deadline.
settings.register_profile("derper", deadline=None)
settings.load_profile("derper")

# Test folders are not packages; these have helpers that tests in other folders import, too.
SHARED = ("house", "interop", "mesh", "prober", "server", "server/admission", "tools", "websocket")
sys.path += [str(Path(__file__).parent / folder) for folder in SHARED]

# Show failed assertions of this module in detail, as in tests.
pytest.register_assert_rewrite("both")


@pytest.fixture
def one_thread_collects() -> Iterator[None]:
    """Keep the collector from running in other threads: a simulated world may be freed only in its own thread."""
    gc.disable()
    yield
    gc.collect()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make skipped tests fail in CI, where a skip would stay unnoticed."""
    report = yield
    if report.skipped and os.environ.get("CI"):
        report.outcome = "failed"
    return report
