"""Connections that stop at each stage of TLS, HTTP and login: held open, or reset again and again."""

from collections import Counter
from itertools import cycle

import pytest
from beside import MEGABYTE, TLS_WIRES, WIRES, Beside, Target, Wire, for_seconds
from derpwire import RelayAddress
from stages import hold, stages_of, the_wrong_login
from victim import context_of

pytest_plugins = ["attacktable"]

EACH = 30  # connections at each stage
OURS_SECONDS, GO_SECONDS = 120.0, 35.0  # how long connections are held; our relay has to close all of them
PER_CONNECTION = 64 << 10  # limit of memory in bytes per connection before login, with tolerance


def test_connections_held_at_each_stage(beside: Beside) -> None:
    """Tests both versions of TLS in parallel, because each deadline takes half a minute."""

    def attack(target: Target) -> str:
        doors = [RelayAddress(target.relay.port, context_of(version)) for version in ("1.2", "1.3")]
        held = [(stage, stage(door)) for door in doors for stage in stages_of(door) for _ in range(EACH)]
        ended = hold([opened for _, opened in held], OURS_SECONDS if target.is_ours else GO_SECONDS)
        left = Counter(stage.__name__ for (stage, _), at in zip(held, ended, strict=True) if at is None)
        if target.is_ours:
            assert not left, f"not closed: {left}"
        last = max((at for at in ended if at is not None), default=0)
        open_ = "; ".join(f"{count} open at {stage.replace('_', ' ')}" for stage, count in left.items())
        return f"the last one closed after {last:.0f} s" if not left else f"after {GO_SECONDS:.0f} s: {open_}"

    count = 2 * EACH * len(stages_of(RelayAddress(0, context_of("1.3"))))
    ours = beside(f"{count} connections held at each of 7 stages, TLS 1.2 and 1.3", attack).ours
    ours.is_unharmed()
    assert ours.grown < 8 * MEGABYTE + count * PER_CONNECTION


@pytest.mark.parametrize("wire", WIRES)
def test_connections_broken_off_at_each_stage(beside: Beside, wire: Wire) -> None:
    def attack(target: Target) -> str:
        door = target.door
        count = 0
        for stage, _ in zip(cycle((*stages_of(door), the_wrong_login)), for_seconds(), strict=False):
            stage(door).wire.reset()
            count += 1
        return f"{count} connections"

    beside("connections reset at each stage, one after the other", attack, wire=wire).ours.is_unharmed()


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_garbage_after_each_stage_of_tls(beside: Beside, wire: Wire) -> None:
    """Bytes that are not a TLS record, sent without the TLS session."""

    def attack(target: Target) -> str:
        door = target.door
        count = 0
        for stage, _ in zip(cycle(stages_of(door)), for_seconds(), strict=False):
            wire = stage(door).wire
            wire.send_without_tls(b"\x17\x03\x03\x40\x00" + bytes(0x4000))
            wire.close()
            count += 1
        return f"{count} connections"

    beside("a record that cannot be opened, at each stage", attack, wire=wire).ours.is_unharmed()
