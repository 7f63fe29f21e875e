"""Random histories, run in the model and in the real switchboard, which have to agree after each event.

Most come from seeds, because that is quick; some from Hypothesis, which shrinks a failing one to its shortest form.
`DERPER_HISTORIES` sets their number, `DERPER_FIRST_SEED` the first seed.
"""

import os
from math import ceil
from random import Random
from typing import Any, ClassVar, Final

import pytest
from history import History
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

pytestmark = pytest.mark.usefixtures("one_thread_collects")

HISTORIES: Final = int(os.environ.get("DERPER_HISTORIES", "10000"))
FIRST_SEED: Final = int(os.environ.get("DERPER_FIRST_SEED", "0"))
EVENTS: Final = 40
SHARDS: Final = [1, 2, 4]


@pytest.mark.parametrize("shards", SHARDS)
def test_model_and_switchboard_agree_on_every_seeded_history(shards: int) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + ceil(HISTORIES / len(SHARDS))):
        history = History(shards=shards, seed=seed)
        choose = Random(seed).randrange  # noqa: S311  a seed repeats it
        try:
            for _ in range(EVENTS):
                events = history.possible()
                events[choose(len(events))](choose)
                history.both.agree()
        except AssertionError as error:
            error.add_note(f"seed {seed}, {shards} shards:\n" + "\n".join(history.told))
            raise


def event(name: str) -> Any:  # noqa: ANN401  a rule object of Hypothesis
    """Return a rule for an event of `History`."""

    def happen(self: "Shrinking", data: st.DataObject) -> None:
        def choose(bound: int) -> int:
            return data.draw(st.integers(0, bound - 1))

        getattr(self.history, name)(choose)

    happen.__name__ = name
    can_happen = precondition(lambda self: any(method.__name__ == name for method in self.history.possible()))
    return can_happen(rule(data=st.data())(happen))


class Shrinking(RuleBasedStateMachine):
    shards: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.history = History(shards=self.shards, seed=0)

    connect = event("connect")
    send = event("send")
    forward = event("forward")
    announce = event("announce")
    watch = event("watch")
    close_peer = event("close_peer")
    talk = event("talk")
    offend = event("offend")
    stall = event("stall")
    resume = event("resume")
    leave = event("leave")
    write = event("write")
    dismiss = event("dismiss")
    pass_time = event("pass_time")

    @invariant()
    def both_agree(self) -> None:
        self.history.both.agree()


class OneShard(Shrinking):
    shards = 1


class TwoShards(Shrinking):
    shards = 2


class FourShards(Shrinking):
    shards = 4


TestHistoriesOnOneShard = OneShard.TestCase
TestHistoriesOnTwoShards = TwoShards.TestCase
TestHistoriesOnFourShards = FourShards.TestCase

for case in (TestHistoriesOnOneShard, TestHistoriesOnTwoShards, TestHistoriesOnFourShards):
    case.settings = settings(
        max_examples=max(10, HISTORIES // 100),
        stateful_step_count=EVENTS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
del case
