"""Histories with concurrent events: no event waits until the earlier ones are finished.

The fate of a single packet is then not determined, but some rules hold. It reaches only its receiver's key, at most
once, in its sender's order. In the end each packet was delivered, dropped and counted, or is queued.
"""

import os
from collections import defaultdict
from math import ceil
from random import Random
from typing import Final

import pytest
from both import split, world
from model import CLOSE_PEER, FORWARD, PING, RECV, SEND, Frame, Key, LoginKind, is_disco

pytestmark = pytest.mark.usefixtures("one_thread_collects")

HISTORIES: Final = int(os.environ.get("DERPER_HISTORIES", "10000"))
FIRST_SEED: Final = int(os.environ.get("DERPER_FIRST_SEED", "0"))
EVENTS: Final = 60
KEYS: Final[list[Key]] = [bytes([n]) * 32 for n in range(1, 6)]


class Race:
    def __init__(self, shards: int, seed: int) -> None:
        self.shards = shards
        self.random = Random(seed)  # noqa: S311  a seed repeats it
        self.real = world(shards=shards, seed=seed)
        self.parties: dict[int, tuple[Key, LoginKind]] = {}
        self.present: list[int] = []
        self.sent = 0
        self.pending: dict[int, bytes] = defaultdict(bytes)
        self.delivered: set[int] = set()
        # The last packet from each sending to each receiving connection, by kind.
        self.latest: dict[tuple[int, int, bool], int] = defaultdict(int)

    def packet(self, party: int, to: Key) -> bytes:
        self.sent += 1
        disco = self.random.random() < 0.4
        mark = self.sent.to_bytes(4, "big") + party.to_bytes(2, "big") + to[:1]
        return (b"TS\xf0\x9f\x92\xac" + bytes(56) if disco else b"") + mark + bytes(self.random.choice([0, 30, 500]))

    def happen(self) -> None:
        choice = self.random.random()
        if choice < 0.15 or not self.present:
            key = self.random.choice(KEYS)
            guest = self.random.choice([LoginKind.CLIENT, LoginKind.CLIENT, LoginKind.MESH_PEER])
            party = self.real.join(key, guest, self.random.randrange(self.shards), self.random.randrange(self.shards))
            self.parties[party] = key, guest
            self.present.append(party)
            if self.random.random() < 0.5:
                self.real.chop(party)
            return
        party = self.random.choice(self.present)
        key, guest = self.parties[party]
        if choice < 0.7:
            frames = []
            for _ in range(self.random.randrange(8)):
                to = self.random.choice(KEYS)
                packet = self.packet(party, to)
                if guest is LoginKind.MESH_PEER and self.random.random() < 0.3:
                    frames.append(Frame(FORWARD, key + to + packet))
                else:
                    frames.append(Frame(SEND, to + packet))
            if guest is LoginKind.MESH_PEER and self.random.random() < 0.1:
                frames.append(Frame(CLOSE_PEER, self.random.choice(KEYS)))
            self.real.send(party, b"".join(map(bytes, [*frames, Frame(PING, bytes(8))])))
        elif choice < 0.8:
            self.real.set_room(party, self.random.choice([0, 1, 40, 600]))
        elif choice < 0.9:
            self.real.set_room(party, None)
        else:
            how = self.random.choice([self.real.finish, self.real.reset, self.real.close])
            how(party)
            if how != self.real.close:
                self.present.remove(party)

    def look(self) -> None:
        """Check the frames that all connections have received so far."""
        for party, (key, _) in self.parties.items():
            frames, self.pending[party] = split(self.pending[party] + self.real.receive(party))
            for frame in frames:
                if frame.type == RECV:
                    packet = frame.payload[32:]
                    disco = is_disco(packet)
                    mark = packet[62 if disco else 0 :][:7]
                    serial, sender = int.from_bytes(mark[:4], "big"), int.from_bytes(mark[4:6], "big")
                    assert mark[6:7] == key[:1], f"party {party} got another's packet"
                    assert frame.payload[:32] == self.parties[sender][0]
                    assert serial not in self.delivered, f"packet {serial} came twice"
                    self.delivered.add(serial)
                    assert self.latest[sender, party, disco] < serial, f"packet {serial} came too late"
                    self.latest[sender, party, disco] = serial

    def check_counts(self) -> None:
        queued = sum(self.real.run())
        self.look()
        counters = self.real.counters()
        sources = ("packets_received_disco", "packets_received_other", "packets_forwarded_in")
        read = sum(counters.get(name, 0) for name in sources)
        dropped = sum(packets for packets, _ in self.real.drops().values())
        # A packet that was partly written to the socket is counted as sent.
        begun = sum(data[:1] == bytes([RECV]) for data in self.pending.values())
        assert counters.get("packets_sent", 0) >= len(self.delivered)
        assert read == counters.get("packets_sent", 0) + dropped + queued
        assert counters.get("packets_sent", 0) <= len(self.delivered) + begun


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_every_packet_is_delivered_dropped_or_queued(shards: int) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + ceil(HISTORIES / 3)):
        race = Race(shards, seed)
        try:
            for _ in range(EVENTS):
                race.happen()
                for _ in range(race.random.choice([0, 1, 3, 10])):
                    race.real.step()
                if race.random.random() < 0.05:
                    race.real.pass_time(race.random.choice([10, 500, 2_000]))
                race.look()
            race.check_counts()
        except AssertionError as error:
            error.add_note(f"seed {seed}, {shards} shards")
            raise
