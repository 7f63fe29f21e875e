"""Turns to ask a verifier: shared by networks, bounded in number and time, and freed by clients that leave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from derper.protocol import NodePrivate
from derper.server.admission import turns
from derper.server.admission.answers import ClientIdentity
from derper.server.admission.turns import NoTurnError, Turns, network_of

KEY = NodePrivate(bytes([7] * 32)).public()


def client(ip: str, *, was_known: bool = False) -> ClientIdentity:
    return ClientIdentity(KEY, ip, was_known=was_known)


class Questions:
    """Clients that want a turn, each a task; `begun` lists the turns in their order."""

    def __init__(self, most: int = 1) -> None:
        self.turns = Turns(most)
        self.begun: list[str] = []
        self.refused: list[str] = []
        self._end = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def add(self, name: str, ip: str, *, was_known: bool = False) -> None:
        self.tasks.append(asyncio.create_task(self._ask(name, client(ip, was_known=was_known))))
        await asyncio.sleep(0)

    async def end(self) -> None:
        """Let every question end with its turn."""
        self._end.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _ask(self, name: str, applicant: ClientIdentity) -> None:
        try:
            async with self.turns.turn(applicant):
                self.begun.append(name)
                await self._end.wait()
        except NoTurnError as error:
            self.refused.append(f"{name}: {error}")


@asynccontextmanager
async def one_is_asked(most: int = 1) -> AsyncIterator[Questions]:
    questions = Questions(most)
    for number in range(most):
        await questions.add(f"first {number}", "192.0.2.1")
    questions.begun.clear()
    yield questions
    await questions.end()
    assert await all_are_free(questions.turns, most)


async def all_are_free(shared: Turns, most: int) -> bool:
    """Take every turn; none of them may have to wait."""
    async with asyncio.timeout(10):
        for _ in range(most):
            await shared.turn(client("192.0.2.1")).__aenter__()
    return True


async def test_networks_take_turns_for_any_number_of_clients_in_each() -> None:
    async with one_is_asked() as questions:
        for number in range(100):
            await questions.add(f"crowd {number}", f"203.0.113.{number}")
        await questions.add("other", "198.51.100.1")
    assert questions.begun[:2] == ["crowd 0", "other"]
    assert questions.begun[2:] == [f"crowd {number}" for number in range(1, 100)]


async def test_a_known_client_goes_first() -> None:
    async with one_is_asked() as questions:
        await questions.add("stranger", "203.0.113.1")
        await questions.add("known", "203.0.113.1", was_known=True)
    assert questions.begun == ["known", "stranger"]


async def test_a_full_queue_rejects_the_newest_client_of_the_largest_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST_WAITING", 4)
    async with one_is_asked() as questions:
        for number in range(6):
            await questions.add(f"crowd {number}", f"203.0.113.{number}")
        assert questions.refused == [f"crowd {number}: 4 other clients wait for a turn" for number in (4, 5)]
        await questions.add("other", "198.51.100.1")
        await asyncio.sleep(0)
        assert questions.refused[2:] == ["crowd 3: 4 other clients wait for a turn"]
        await questions.add("known", "198.51.100.2", was_known=True)
        await asyncio.sleep(0)
        assert questions.refused[3:] == ["crowd 2: 4 other clients wait for a turn"]
    assert questions.begun == ["known", "crowd 0", "other", "crowd 1"]


async def test_a_client_that_waits_too_long_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.05)
    async with one_is_asked() as questions:
        await questions.add("late", "203.0.113.1")
        async with asyncio.timeout(10):
            await questions.tasks[-1]
        assert questions.refused == ["late: no turn within 0.05 s"]


async def test_a_client_that_leaves_frees_its_place_and_its_turn() -> None:
    async with one_is_asked() as questions:
        for number in range(3):
            await questions.add(str(number), "203.0.113.1")
        leaving = questions.tasks[-2]
        leaving.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
    assert questions.begun == ["0", "2"]


async def test_a_turn_granted_to_a_client_that_leaves_goes_to_the_next() -> None:
    questions = Questions()
    async with questions.turns.turn(client("192.0.2.1")):
        await questions.add("leaving", "203.0.113.1")
        await questions.add("next", "203.0.113.2")
    questions.tasks[0].cancel()  # its turn is granted, and the task has not run since
    await questions.end()
    assert questions.begun == ["next"]
    assert await all_are_free(questions.turns, 1)


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("192.0.2.200", "192.0.2.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("::ffff:192.0.2.1", "::/48"),
    ],
)
def test_a_network_is_24_bits_of_ipv4_and_48_of_ipv6(ip: str, network: str) -> None:
    assert network_of(ip) == network
