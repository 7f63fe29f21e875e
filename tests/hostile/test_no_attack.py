"""The victim without an attack: its figures, and that it detects a relay that dies."""

import time
from pathlib import Path

import pytest
from beside import WIRES, Beside, Target, Wire, attacked
from relays import OurDerper

pytest_plugins = ["attacktable"]


@pytest.mark.parametrize("wire", WIRES)
def test_without_an_attack_nothing_is_lost(beside: Beside, wire: Wire) -> None:
    def nothing(_target: Target) -> str:
        time.sleep(2)
        return "nothing"

    beside("none", nothing, wire=wire).ours.is_unharmed()


def test_a_relay_that_dies_is_noticed(tmp_path: Path) -> None:
    def kill(target: Target) -> str:
        target.relay.kill()
        return "it was killed"

    outcome = attacked(OurDerper(tmp_path), "plain", None, kill)
    assert not outcome.alive
    assert outcome.figures.cut
    assert outcome.figures.logins_failed > 0
    with pytest.raises(AssertionError, match="the relay died"):
        outcome.is_unharmed()
