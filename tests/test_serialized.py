"""Serialized work: runs never overlap, and calls during a run share the next one."""

import asyncio

import pytest

from derper.host.serialized import Serialized


async def test_calls_during_a_run_share_one_further_run() -> None:
    runs, go_on = 0, asyncio.Event()

    async def work() -> int:
        nonlocal runs
        runs += 1
        number = runs
        await go_on.wait()
        assert runs == number, "another run began before this one had ended"
        return number

    serialized = Serialized(work)
    first = asyncio.create_task(serialized())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert runs == 1
    others = [asyncio.create_task(serialized()) for _ in range(100)]
    await asyncio.sleep(0)
    go_on.set()
    assert await first == 1
    assert await asyncio.gather(*others) == [2] * 100
    assert await serialized() == 3


async def test_a_cancelled_caller_and_a_failed_run_do_not_affect_the_next_run() -> None:
    go_on, fails = asyncio.Event(), True

    async def work() -> str:
        await go_on.wait()
        if fails:
            raise ValueError("as wanted")
        return "done"

    serialized = Serialized(work)
    gives_up, stays = asyncio.create_task(serialized()), asyncio.create_task(serialized())
    await asyncio.sleep(0)
    gives_up.cancel()
    go_on.set()
    with pytest.raises(ValueError, match="as wanted"):
        await stays
    fails = False
    assert await serialized() == "done"
