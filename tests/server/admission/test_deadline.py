"""A deadline for an answer counts only the time in which the loop could read it."""

import asyncio
import time

import pytest

from derper.host.deadline import deadline

LONG = bytes(1 << 20)  # takes several reads


async def test_a_deadline_ends_a_longer_wait() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with deadline(0.05):
            await asyncio.Event().wait()
    assert time.monotonic() - began >= 0.05


async def test_an_answer_that_arrived_during_a_pause_of_the_loop_is_read() -> None:
    async def answer(_stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        out.write(LONG)
        out.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        async with deadline(0.2):
            stream, out = await asyncio.open_connection(*server.sockets[0].getsockname())
            await asyncio.sleep(0)
            time.sleep(1)  # noqa: ASYNC251  the pause
            assert await stream.read(-1) == LONG
        out.close()


async def test_none_sets_no_deadline_and_a_finished_block_leaves_no_timer() -> None:
    async with deadline(None) as never:
        await asyncio.sleep(0)
    async with deadline(0.01) as over:
        pass
    await asyncio.sleep(0.05)
    assert (never.expired(), over.expired()) == (False, False)
